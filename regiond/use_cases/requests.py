"""Who asks, and what every request carries besides its own words."""

from dataclasses import dataclass

from regiond.domain.mutations import Actor, Idempotency
from regiond.storage.changes import Change


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated account, and what its token allows."""

    account: int
    name: str
    is_admin: bool
    read_only: bool

    @property
    def actor(self) -> Actor:
        return Actor(self.account, self.name, self.is_admin)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`fingerprint` stands for method, path, query and body; `wait_seconds` is how long the answer may wait.

    None waits the default for *applied*: 2 s for the serving clusters that are connected. `if_match` has the versions
    in which a thing may be changed or deleted, None: in any. `probe`: whether addresses are probed before they are
    handed out, None: as their subnet says.
    """

    caller: Caller
    request_id: str
    fingerprint: str = ""
    idempotency_key: str | None = None
    wait_seconds: float | None = None
    if_match: frozenset[str] | None = None
    probe: bool | None = None

    @property
    def idempotency(self) -> Idempotency | None:
        if self.idempotency_key is None:
            return None
        return Idempotency(self.caller.account, self.idempotency_key, self.fingerprint)

    @property
    def change(self) -> Change:
        """For what does not go through the writer."""
        return Change(self.caller.actor, self.request_id, self.idempotency, self.if_match)
