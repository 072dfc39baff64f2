"""On whose account something is made."""

from regiond.domain import errors
from regiond.storage.reads import Reads
from regiond.use_cases.requests import RequestContext


async def owner_named(reads: Reads, context: RequestContext, name: str | None) -> tuple[int, str]:
    """An account's id and name; without a name the caller's own. Raises NotFound."""
    if name is None or name == context.caller.name:
        return context.caller.account, context.caller.name
    account = await reads.account_id(name)
    if account is None:
        raise errors.NotFound(f"no account {name}")
    return account, name
