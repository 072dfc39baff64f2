"""Accounts, bearer tokens, and who it is that asks.

A verified token is remembered for CACHE_SECONDS, so a revoked token or a disabled account is refused by every regiond
after that time at the latest, and at once by the regiond that was told.

There is one built-in admin account, `local`: whoever can open the region's UNIX socket. It is made at the start and has
no tokens, so nothing that arrives over TCP can be it.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Protocol

from twisted.logger import Logger

from clusterd.protocol.values import parse_name
from regiond.domain import errors
from regiond.domain.accounts import (
    LOCAL_ACCOUNT,
    SALT_BYTES,
    SECRET_BYTES,
    AccountView,
    NewToken,
    Role,
    StoredSecret,
    TokenView,
    format_token,
    hash_of,
    make_secret,
    parse_token,
)
from regiond.domain.ids import ID_BITS, NewId, Prefix, format_id, parse_id
from regiond.domain.mutations import Actor
from regiond.storage.accounts import AccountStore
from regiond.storage.changes import Change
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.requests import Caller, RequestContext

CACHE_SECONDS: Final = 5.0
CACHE_SIZE: Final = 10_000
MAX_TOKEN_NAME_LENGTH: Final = 100

_REGION = Actor(None, "region", True)


class Clock(Protocol):
    """Monotonic seconds; a reactor is one."""

    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    until: float


def random_id() -> int:
    """50 random bits for a new id."""
    return secrets.randbits(ID_BITS)


class Accounts:
    """See the module. `random_bytes` and `new_id` must not be predictable."""

    _log = Logger(namespace="region.accounts")

    def __init__(
        self,
        clock: Clock,
        store: AccountStore,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        new_id: NewId = random_id,
    ) -> None:
        self._clock = clock
        self._store = store
        self._random_bytes = random_bytes
        self._new_id = new_id
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._forgotten = 0  # how often everything remembered was dropped
        self._local: Caller | None = None

    # ---- who asks ----

    async def authenticate(self, authorization: bytes | None) -> Caller | None:
        """The account of an Authorization header, or None when the header proves nothing."""
        scheme, _, credentials = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        try:
            text = credentials.strip().decode("ascii")
        except UnicodeDecodeError:
            return None
        digest = sha256(text.encode()).digest()
        now = self._clock.seconds()
        known = self._remembered.get(digest)
        if known is not None and now < known.until:
            self._remembered.move_to_end(digest)
            return known.caller
        parsed = parse_token(text)
        if parsed is None:
            return None
        forgotten = self._forgotten
        credential = await self._store.credential(parsed.id)
        if credential is None or not credential.secret.fits(parsed.secret):
            self._remembered.pop(digest, None)
            return None
        account = credential.account
        caller = Caller(account.id, account.name, account.role is Role.ADMIN, credential.read_only)
        left = CACHE_SECONDS if credential.seconds_left is None else min(CACHE_SECONDS, credential.seconds_left)
        if forgotten == self._forgotten:
            # counted from before the question was asked: the answer may have been old when it came
            self._remembered[digest] = _Remembered(caller, now + left)
            self._remembered.move_to_end(digest)
            while len(self._remembered) > CACHE_SIZE:
                self._remembered.popitem(last=False)
        return caller

    def _forget_all(self) -> None:
        """Answers of the database that are still on their way are not remembered either."""
        self._remembered.clear()
        self._forgotten += 1

    async def local_caller(self) -> Caller:
        """Who a request without a token on the region's own UNIX socket comes from. Makes the account if need be."""
        if self._local is None:
            account = await self._store.ensure_account(self._new_id(), LOCAL_ACCOUNT, Role.ADMIN)
            self._local = Caller(account.id, account.name, is_admin=True, read_only=False)
        return self._local

    async def bootstrap(self, name: str = "admin", token_name: str = "first") -> NewToken | None:  # noqa: S107 (a label)
        """Make the first admin account and a token for it; None when there is an admin besides `local` already."""
        if await self._store.has_admin_besides(LOCAL_ACCOUNT):
            return None
        change = Change(_REGION, "bootstrap")
        try:
            account = await self._store.create_account(change, self._new_id(), parse_name(name), Role.ADMIN)
        except errors.NameTaken:
            return None  # another regiond was faster, or a user has this name
        self._log.info(
            "first admin account {account} made", event="account.created", account=account.name, role="admin"
        )
        return await self._make_token(change, account, token_name, read_only=False, expires_at=None)

    # ---- accounts ----

    async def create_account(self, context: RequestContext, *, name: str, role: Role) -> AccountView:
        """Raises NotPermitted, NameTaken, and ValueError for what is not a name."""
        require_admin(context)
        name = parse_name(name)
        account = await self._store.create_account(context.change, self._new_id(), name, role)
        self._log.info(
            "account {account} with role {role} made by {actor}",
            event="account.created",
            account=account.name,
            role=account.role.value,
            actor=context.caller.name,
            request_id=context.request_id,
        )
        return account

    async def list_accounts(self, context: RequestContext, *, limit: int, after: str | None) -> Sequence[AccountView]:
        require_admin(context)
        return await self._store.accounts(limit, _cursor(Prefix.ACCOUNT, after))

    async def account(self, context: RequestContext, account_id: str) -> AccountView:
        """An account by id or name; a user finds only its own. Raises NotFound."""
        number = parse_id(Prefix.ACCOUNT, account_id)
        found = (
            await self._store.account_named(account_id.strip().lower())
            if number is None
            else await self._store.account(number)
        )
        if found is None or not (context.caller.is_admin or found.id == context.caller.account):
            raise errors.NotFound(f"there is no account {account_id[:64]}")
        return found

    async def change_account(
        self, context: RequestContext, account_id: str, *, changes: Mapping[str, Any]
    ) -> AccountView:
        """Set some of `disabled`, `max_reservations` and `max_reservations_per_subnet` (None: no limit).

        A disabled account's tokens prove nothing. Raises NotFound and NotPermitted.
        """
        require_admin(context)
        account = await self.account(context, account_id)
        if account.name == LOCAL_ACCOUNT and changes.get("disabled"):
            raise errors.NotPermitted("the built-in account `local` cannot be disabled: the socket's owner needs it")
        changed = await self._store.change_account(context.change, account.id, changes)
        assert changed is not None, "accounts are never deleted"
        self._forget_all()
        self._log.info(
            "account {account} changed by {actor}: {change}",
            event="account.changed",
            account=account.name,
            change=", ".join(f"{name}={value}" for name, value in changes.items()),
            actor=context.caller.name,
            request_id=context.request_id,
        )
        return changed

    # ---- tokens ----

    async def create_token(
        self,
        context: RequestContext,
        *,
        name: str,
        account: str | None,
        read_only: bool,
        expires_at: datetime | None,
    ) -> NewToken:
        """For the caller's own account, or (an admin) for another one, by id or name.

        The secret is in the answer and nowhere else: the answer to a repeated idempotency key is without it.
        Raises NotFound, NotPermitted and NameTaken.
        """
        owner = await self.account(
            context, format_id(Prefix.ACCOUNT, context.caller.account) if account is None else account
        )
        if owner.name == LOCAL_ACCOUNT:
            raise errors.NotPermitted("the built-in account `local` has no tokens: name an account with `account`")
        return await self._make_token(
            context.change, owner, name, read_only=read_only, expires_at=expires_at, asked_by=context.caller.name
        )

    async def _make_token(
        self,
        change: Change,
        owner: AccountView,
        name: str,
        *,
        read_only: bool,
        expires_at: datetime | None,
        asked_by: str = "region",
    ) -> NewToken:
        number = self._new_id()
        secret = make_secret(self._random_bytes(SECRET_BYTES))
        salt = self._random_bytes(SALT_BYTES)
        token = await self._store.create_token(
            change,
            number,
            owner.id,
            name,
            StoredSecret(salt, hash_of(salt, secret)),
            read_only=read_only,
            expires_at=expires_at,
        )
        if token.id != number:
            return NewToken(token, None)
        self._log.info(
            "token {token} made for {account} by {actor}",
            event="token.created",
            token=format_id(Prefix.TOKEN, token.id),
            account=owner.name,
            actor=asked_by,
            read_only=read_only,
            request_id=change.request_id,
        )
        return NewToken(token, format_token(number, secret))

    async def list_tokens(
        self, context: RequestContext, *, account: str | None, limit: int, after: str | None
    ) -> Sequence[TokenView]:
        """An admin sees all, or those of one account; a user its own."""
        caller = context.caller
        owner = None if caller.is_admin else caller.account
        if account is not None:
            owner = (await self.account(context, account)).id
        return await self._store.tokens(owner, limit, _cursor(Prefix.TOKEN, after))

    async def token(self, context: RequestContext, token_id: str) -> TokenView:
        """Raises NotFound, for others' tokens too."""
        number = parse_id(Prefix.TOKEN, token_id)
        found = None if number is None else await self._store.token(number)
        if found is None or not (context.caller.is_admin or found.account == context.caller.account):
            raise errors.NotFound(f"there is no token {token_id[:64]}")
        return found

    async def revoke_token(self, context: RequestContext, token_id: str) -> None:
        """Raises NotFound, for others' tokens too."""
        number = parse_id(Prefix.TOKEN, token_id)
        owner = None if context.caller.is_admin else context.caller.account
        if number is None or not await self._store.delete_token(context.change, number, owner):
            raise errors.NotFound(f"there is no token {token_id[:64]}")
        self._forget_all()
        self._log.info(
            "token {token} revoked by {actor}",
            event="token.revoked",
            token=format_id(Prefix.TOKEN, number),
            actor=context.caller.name,
            request_id=context.request_id,
        )


def _cursor(prefix: Prefix, after: str | None) -> int | None:
    if after is None:
        return None
    number = parse_id(prefix, after)
    if number is None:
        raise ValueError(f"not an id of this list: {after[:64]!r}")
    return number
