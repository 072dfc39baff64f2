"""Accounts and tokens in the database. Every change writes its audit row in the same transaction.

Changes are safe to repeat after a lost answer: they are recognised by the id that the caller made, or by the
idempotency key. What is stored under a key is only the id of what was made; a token's secret is stored nowhere.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from regiond.domain import errors
from regiond.domain.accounts import AccountView, Role, StoredSecret, TokenView
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Actor, Idempotency
from regiond.storage.connection import Row
from regiond.storage.pool import Pool, Session

_ACCOUNTS = "SELECT a.id, a.name, a.role, a.disabled, a.created FROM account a"
_TOKENS = """SELECT t.id, t.account, a.name, t.name, t.read_only, t.created, t.expires_at
FROM token t JOIN account a ON a.id = t.account"""


@dataclass(frozen=True, slots=True)
class Credential:
    """What authentication needs of a token. `seconds_left` is by the database's clock, None without an expiry."""

    account: AccountView
    read_only: bool
    secret: StoredSecret
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes something, in which request."""

    actor: Actor
    request_id: str
    idempotency: Idempotency | None = None


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
            await _audit(session, change, "account.create", format_id(Prefix.ACCOUNT, account), None, after)
            return account

        made = await self._once(change, insert, f"{_ACCOUNTS} WHERE a.id = %s", (account,))
        found = await self.account(made)
        assert found is not None, "accounts are never deleted"
        return found

    async def set_disabled(self, change: Change, account: int, disabled: bool) -> AccountView | None:
        """None when there is no such account."""

        async def update(session: Session) -> None:
            changed = await session.run(
                "UPDATE account SET disabled = %s WHERE id = %s AND disabled <> %s RETURNING id",
                (disabled, account, disabled),
            )
            if changed:
                action = "account.disable" if disabled else "account.enable"
                await _audit(session, change, action, format_id(Prefix.ACCOUNT, account), None, None)

        await self._pool.transaction(update, retry=True)
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
            await _audit(session, change, "token.create", format_id(Prefix.TOKEN, token), None, after)
            return token

        made = await self._once(change, insert, f"{_TOKENS} WHERE t.id = %s", (token,))
        found = await self.token(made)
        if found is None:
            raise errors.NotFound("the token that this request made has been revoked since")
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
            before = {"account": gone[0][1], "name": gone[0][0]}
            await _audit(session, change, "token.revoke", format_id(Prefix.TOKEN, token), before, None)
            return token

        try:
            await self._once(change, delete)
        except errors.NotFound:
            return False
        return True

    async def _once(
        self,
        change: Change,
        work: Callable[[Session], Awaitable[int]],
        made_before: str | None = None,
        args: Sequence[Any] = (),
    ) -> int:
        """Do the work unless it was done before: under the same key, or (`made_before` finds a row) by ourselves.

        Returns the id of what was made, then or now.
        """
        key = change.idempotency

        async def run(session: Session) -> int:
            if key is not None:
                # a second request with the key waits here until the first one has committed or failed
                first = await session.run(
                    """INSERT INTO idempotency (account, key, fingerprint, answer) VALUES (%s, %s, %s, '')
                       ON CONFLICT (account, key) DO NOTHING RETURNING key""",
                    (key.account, key.key, key.fingerprint),
                )
                if not first:
                    return await _answered(session, key)
            if made_before is not None:
                mine = await session.run(made_before, args)
                if mine:
                    return int(mine[0][0])
            made = await work(session)
            if key is not None:
                await session.run(
                    "UPDATE idempotency SET answer = %s WHERE account = %s AND key = %s",
                    (json.dumps({"id": made}), key.account, key.key),
                )
            return made

        # without a key a repeated DELETE would find nothing, and say so of its own success
        return await self._pool.transaction(run, retry=made_before is not None or key is not None)


async def _answered(session: Session, key: Idempotency) -> int:
    rows = await session.run(
        "SELECT fingerprint, answer FROM idempotency WHERE account = %s AND key = %s", (key.account, key.key)
    )
    if not rows or rows[0][0] != key.fingerprint:
        raise errors.IdempotencyKeyReused("this Idempotency-Key was used for another request")
    return int(json.loads(rows[0][1])["id"])


async def _audit(
    session: Session,
    change: Change,
    action: str,
    thing: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    await session.run(
        """INSERT INTO audit (account, actor, action, object, before, after, request_id)
           VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, %s)""",
        (
            change.actor.account,
            change.actor.name,
            action,
            thing,
            None if before is None else json.dumps(before),
            None if after is None else json.dumps(after),
            change.request_id,
        ),
    )


def _first_account(rows: list[Row]) -> AccountView | None:
    return _account(rows[0]) if rows else None


def _account(row: Row) -> AccountView:
    return AccountView(row[0], row[1], Role(row[2]), row[3], row[4])


def _token(row: Row) -> TokenView:
    return TokenView(*row)
