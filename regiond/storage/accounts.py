"""Accounts and tokens in the database. Every change writes its audit row in the same transaction.

Changes are safe to repeat after a lost answer: they are recognised by the id that the caller made, or by the
idempotency key. What is stored under a key is only the id of what was made; a token's secret is stored nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from regiond.domain import errors, versions
from regiond.domain.accounts import AccountView, Role, StoredSecret, TokenView
from regiond.domain.ids import Prefix, format_id
from regiond.storage.changes import Change, once, write_audit
from regiond.storage.connection import Row
from regiond.storage.pool import Pool, Session

_ACCOUNTS = """SELECT a.id, a.name, a.role, a.disabled, a.created, a.max_reservations, a.max_reservations_per_subnet,
    (SELECT coalesce(sum(c.reservations), 0)::bigint FROM reservation_count c WHERE c.account = a.id)
FROM account a"""
_CHANGEABLE = ("disabled", "max_reservations", "max_reservations_per_subnet")
_TOKENS = """SELECT t.id, t.account, a.name, t.name, t.read_only, t.created, t.expires_at
FROM token t JOIN account a ON a.id = t.account"""


@dataclass(frozen=True, slots=True)
class Credential:
    """What authentication needs of a token. `seconds_left` is by the database's clock, None without an expiry."""

    account: AccountView
    read_only: bool
    secret: StoredSecret
    seconds_left: float | None


class AccountStore:
    """The only SQL about accounts and tokens."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # ---- reading ----

    async def accounts(self, limit: int, after: int | None = None) -> list[AccountView]:
        """In order of id; `after` is the last id of the page before."""
        rows = await self._pool.query(
            f"{_ACCOUNTS} WHERE a.id > %s ORDER BY a.id LIMIT %s",
            (-1 if after is None else after, limit),
            retry=True,
        )
        return [_account(row) for row in rows]

    async def account(self, account: int) -> AccountView | None:
        return _first_account(await self._pool.query(f"{_ACCOUNTS} WHERE a.id = %s", (account,), retry=True))

    async def account_named(self, name: str) -> AccountView | None:
        return _first_account(await self._pool.query(f"{_ACCOUNTS} WHERE a.name = %s", (name,), retry=True))

    async def has_admin_besides(self, name: str) -> bool:
        """Whether there is an admin account of another name, disabled or not."""
        rows = await self._pool.query(
            "SELECT EXISTS (SELECT FROM account WHERE role = 'admin' AND name <> %s)", (name,), retry=True
        )
        return bool(rows[0][0])

    async def tokens(self, account: int | None, limit: int, after: int | None = None) -> list[TokenView]:
        """All tokens, or those of one account."""
        rows = await self._pool.query(
            f"{_TOKENS} WHERE (%s::bigint IS NULL OR t.account = %s) AND t.id > %s ORDER BY t.id LIMIT %s",
            (account, account, -1 if after is None else after, limit),
            retry=True,
        )
        return [_token(row) for row in rows]

    async def token(self, token: int) -> TokenView | None:
        rows = await self._pool.query(f"{_TOKENS} WHERE t.id = %s", (token,), retry=True)
        return _token(rows[0]) if rows else None

    async def credential(self, token: int) -> Credential | None:
        """None for an unknown or expired token, and for one of a disabled account."""
        rows = await self._pool.query(
            """SELECT a.id, a.name, a.role, a.disabled, a.created, t.read_only, t.salt, t.hash,
                      extract(epoch FROM t.expires_at - now())::float
               FROM token t JOIN account a ON a.id = t.account
               WHERE t.id = %s AND NOT a.disabled AND (t.expires_at IS NULL OR t.expires_at > now())""",
            (token,),
            retry=True,
        )
        if not rows:
            return None
        row = rows[0]
        return Credential(_account(row[:5]), row[5], StoredSecret(bytes(row[6]), bytes(row[7])), row[8])

    # ---- changing ----

    async def ensure_account(self, account: int, name: str, role: Role) -> AccountView:
        """The account of this name; it is made with this id and role when there is none."""
        await self._pool.execute(
            "INSERT INTO account (id, name, role) VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING",
            (account, name, role.value),
            retry=True,
        )
        found = await self.account_named(name)
        assert found is not None, "accounts are never deleted"
        return found

    async def create_account(self, change: Change, account: int, name: str, role: Role) -> AccountView:
        """Raises NameTaken and IdempotencyKeyReused. A repeated idempotency key gives the account first made."""

        async def insert(session: Session) -> int:
            made = await session.run(
                "INSERT INTO account (id, name, role) VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING RETURNING id",
                (account, name, role.value),
            )
            if not made:
                raise errors.NameTaken(f"there is an account {name} already")
            after = {"name": name, "role": role.value}
            await write_audit(session, change, "account.create", format_id(Prefix.ACCOUNT, account), None, after)
            return account

        made = await once(self._pool, change, insert, f"{_ACCOUNTS} WHERE a.id = %s", (account,))
        found = await self.account(made)
        assert found is not None, "accounts are never deleted"
        return found

    async def change_account(self, change: Change, account: int, changes: Mapping[str, Any]) -> AccountView | None:
        """Set some of `disabled`, `max_reservations` and `max_reservations_per_subnet`; None when there is no such
        account.
        """
        wanted = {column: changes[column] for column in _CHANGEABLE if column in changes}

        async def update(session: Session) -> int:
            rows = await session.run(
                """SELECT disabled, max_reservations, max_reservations_per_subnet FROM account WHERE id = %s
                   FOR NO KEY UPDATE""",
                (account,),
            )
            before = dict(zip(_CHANGEABLE, rows[0], strict=True)) if rows else {}
            if rows:
                versions.require(change.if_match, versions.of_account(account, *rows[0]))
            new = {column: value for column, value in wanted.items() if rows and before[column] != value}
            if not new:
                return account
            await session.run(
                """UPDATE account SET disabled = %s, max_reservations = %s, max_reservations_per_subnet = %s
                   WHERE id = %s""",
                (*(before | new).values(), account),
            )
            object_id = format_id(Prefix.ACCOUNT, account)
            if "disabled" in new:
                action = "account.disable" if new.pop("disabled") else "account.enable"
                await write_audit(session, change, action, object_id, None, None)
            if new:
                former = {column: before[column] for column in new}
                await write_audit(session, change, "account.limit", object_id, former, new)
            return account

        await once(self._pool, change, update, sets=True)
        return await self.account(account)

    async def create_token(
        self,
        change: Change,
        token: int,
        account: int,
        name: str,
        secret: StoredSecret,
        *,
        read_only: bool,
        expires_at: datetime | None,
    ) -> TokenView:
        """Raises NameTaken, NotFound (the account is gone) and IdempotencyKeyReused.

        A repeated idempotency key gives the token first made: its id is then another one than `token`.
        """

        async def insert(session: Session) -> int:
            made = await session.run(
                """INSERT INTO token (id, account, name, salt, hash, read_only, expires_at)
                   SELECT %s, a.id, %s, %s, %s, %s, %s FROM account a WHERE a.id = %s
                   ON CONFLICT (account, name) DO NOTHING RETURNING id""",
                (token, name, secret.salt, secret.hash, read_only, expires_at, account),
            )
            if not made:
                raise errors.NameTaken(f"the account has a token {name!r} already")
            after = {"account": format_id(Prefix.ACCOUNT, account), "name": name, "read_only": read_only}
            await write_audit(session, change, "token.create", format_id(Prefix.TOKEN, token), None, after)
            return token

        made = await once(self._pool, change, insert, f"{_TOKENS} WHERE t.id = %s", (token,))
        found = await self.token(made)
        if found is None:
            raise errors.NotFound("the token that this request made is gone since")
        return found

    async def delete_token(self, change: Change, token: int, account: int | None) -> bool:
        """Revoke a token (of `account`, unless None). Whether it was there; a repeated idempotency key says yes."""

        async def delete(session: Session) -> int:
            gone = await session.run(
                """DELETE FROM token t USING account a
                   WHERE t.id = %s AND a.id = t.account AND (%s::bigint IS NULL OR t.account = %s)
                   RETURNING t.name, a.name""",
                (token, account, account),
            )
            if not gone:
                raise errors.NotFound(f"there is no token {format_id(Prefix.TOKEN, token)}")
            versions.require(change.if_match, versions.of_token(token))
            before = {"account": gone[0][1], "name": gone[0][0]}
            await write_audit(session, change, "token.revoke", format_id(Prefix.TOKEN, token), before, None)
            return token

        try:
            await once(self._pool, change, delete)
        except errors.NotFound:
            return False
        return True


def _first_account(rows: list[Row]) -> AccountView | None:
    return _account(rows[0]) if rows else None


def _account(row: Row) -> AccountView:
    return AccountView(row[0], row[1], Role(row[2]), *row[3:])


def _token(row: Row) -> TokenView:
    return TokenView(*row)
