"""Accounts and tokens on a real database: who is let in, for how long, and what is never written down."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from clusterd.daemon.json_logs import render_json
from regiond.domain import errors
from regiond.domain.accounts import (
    AccountView,
    NewToken,
    Role,
    StoredSecret,
    format_token,
    hash_of,
    make_secret,
    parse_token,
)
from regiond.domain.ids import Prefix, format_id
from regiond.storage.accounts import AccountStore, Credential
from regiond.storage.pool import Pool
from regiond.use_cases.accounts import CACHE_SECONDS, CACHE_SIZE, Accounts
from regiond.use_cases.requests import Caller, RequestContext

reactor: Any = global_reactor


class CountingStore(AccountStore):
    """Counts the questions that authentication asks, and can let one wait."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.questions = 0
        self.gate: Deferred[None] | None = None

    async def credential(self, token: int) -> Credential | None:
        self.questions += 1
        found = await super().credential(token)
        if self.gate is not None:
            await self.gate
        return found


class Region:
    """Accounts over one database, with a clock for the cache and some accounts to act as."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.clock = Clock()
        self.store = CountingStore(pool)
        self.accounts = Accounts(self.clock, self.store)

    async def as_local(self) -> RequestContext:
        return RequestContext(await self.accounts.local_caller(), "test-1")

    async def user(self, name: str = "alice", role: Role = Role.USER) -> RequestContext:
        account = await self.accounts.create_account(await self.as_local(), name=name, role=role)
        return RequestContext(Caller(account.id, account.name, role is Role.ADMIN, False), "test-2")

    async def token(self, context: RequestContext, name: str = "laptop", **more: Any) -> NewToken:
        arguments = {"account": None, "read_only": False, "expires_at": None, **more}
        return await self.accounts.create_token(context, name=name, **arguments)

    async def caller(self, text: str | None) -> Caller | None:
        assert text is not None
        return await self.accounts.authenticate(b"Bearer " + text.encode())


@asynccontextmanager
async def region_on(database: str) -> AsyncIterator[Region]:
    pool = Pool(reactor, database, 3)
    pool.start()
    try:
        yield Region(pool)
    finally:
        await pool.close()


@pytest_twisted.ensureDeferred
async def test_a_token_is_its_account(database: str) -> None:
    async with region_on(database) as region:
        alice = await region.user()
        made = await region.token(alice)
        assert made.text is not None
        assert re.fullmatch(r"hm_[0-9a-z]{10}_[A-Za-z0-9_-]{43}", made.text)
        assert made.text.split("_")[1] == format_id(Prefix.TOKEN, made.token.id).split("-")[1]
        assert await region.caller(made.text) == alice.caller
        assert await region.accounts.authenticate(b"bearer   " + made.text.encode()) == alice.caller


@pytest_twisted.ensureDeferred
async def test_nothing_else_is_let_in(database: str) -> None:
    async with region_on(database) as region:
        text = (await region.token(await region.user())).text
        assert text is not None
        other = make_secret(bytes(32))
        for header in (
            None,
            b"",
            b"Bearer",
            b"Bearer ",
            text.encode(),
            b"Basic " + text.encode(),
            b"Bearer " + text.encode()[:-1],
            b"Bearer " + text.encode() + b"x",
            b"Bearer " + text.encode().upper(),
            b"Bearer hm_" + text.split("_")[1].encode() + b"_" + other.encode(),
            b"Bearer hm_0000000000_" + text.split("_", 2)[2].encode(),
            b"Bearer \xff\xfe",
        ):
            assert await region.accounts.authenticate(header) is None, header


@pytest_twisted.ensureDeferred
async def test_a_verified_token_is_remembered_for_some_seconds_and_no_longer(database: str) -> None:
    async with region_on(database) as region:
        text = (await region.token(await region.user())).text
        for _ in range(5):
            assert await region.caller(text)
        assert region.store.questions == 1
        region.clock.advance(CACHE_SECONDS)
        assert await region.caller(text)
        assert region.store.questions == 2


@pytest_twisted.ensureDeferred
async def test_revoked_elsewhere_is_refused_after_the_cache_and_here_at_once(database: str) -> None:
    async with region_on(database) as region:
        alice = await region.user()
        other = Accounts(region.clock, region.store)
        first, second = await region.token(alice, "first"), await region.token(alice, "second")
        assert await region.caller(first.text)
        await other.revoke_token(alice, format_id(Prefix.TOKEN, first.token.id))
        assert await region.caller(first.text)
        region.clock.advance(CACHE_SECONDS)
        assert await region.caller(first.text) is None
        assert await region.caller(second.text)
        await region.accounts.revoke_token(alice, format_id(Prefix.TOKEN, second.token.id))
        assert await region.caller(second.text) is None
        with pytest.raises(errors.NotFound):
            await region.accounts.revoke_token(alice, format_id(Prefix.TOKEN, second.token.id))


@pytest_twisted.ensureDeferred
async def test_an_answer_that_was_on_its_way_during_a_revocation_is_not_remembered(database: str) -> None:
    async with region_on(database) as region:
        alice = await region.user()
        made = await region.token(alice)
        region.store.gate = Deferred()
        asking = Deferred.fromCoroutine(region.caller(made.text))
        await region.accounts.revoke_token(alice, format_id(Prefix.TOKEN, made.token.id))
        region.store.gate.callback(None)
        assert await asking == alice.caller
        region.store.gate = None
        assert await region.caller(made.text) is None


@pytest_twisted.ensureDeferred
async def test_a_disabled_account_is_refused_at_once_and_let_in_again(database: str) -> None:
    async with region_on(database) as region:
        local, alice = await region.as_local(), await region.user()
        text = (await region.token(alice)).text
        assert await region.caller(text)
        assert (await region.accounts.change_account(local, "alice", changes={"disabled": True})).disabled
        assert await region.caller(text) is None
        await region.accounts.change_account(local, "alice", changes={"disabled": False})
        assert await region.caller(text) == alice.caller
        with pytest.raises(errors.NotPermitted):
            await region.accounts.change_account(local, "local", changes={"disabled": True})


@pytest_twisted.ensureDeferred
async def test_an_expired_token_is_refused_also_while_it_is_remembered(database: str) -> None:
    async with region_on(database) as region:
        alice = await region.user()
        past = await region.token(alice, "past", expires_at=datetime.now(UTC) - timedelta(seconds=1))
        assert await region.caller(past.text) is None
        soon = await region.token(alice, "soon", expires_at=datetime.now(UTC) + timedelta(seconds=4.5))
        assert await region.caller(soon.text)
        region.clock.advance(4.5)  # sooner than what is remembered is forgotten
        before = region.store.questions
        await region.caller(soon.text)
        assert region.store.questions == before + 1


@pytest_twisted.ensureDeferred
async def test_read_only_and_admin_are_told(database: str) -> None:
    async with region_on(database) as region:
        root = await region.user("root", Role.ADMIN)
        caller = await region.caller((await region.token(root, "reader", read_only=True)).text)
        assert caller == replace(root.caller, read_only=True)


@pytest_twisted.ensureDeferred
async def test_no_secret_is_logged_shown_or_stored(database: str) -> None:
    async with region_on(database) as region:
        lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            lines.append(render_json(event))

        globalLogPublisher.addObserver(observe)
        try:
            made = await region.token(await region.user())
            assert await region.caller(made.text)
        finally:
            globalLogPublisher.removeObserver(observe)
        assert made.text is not None
        secret = made.text.split("_", 2)[2]
        parsed = parse_token(made.text)
        assert any('"token.created"' in line for line in lines)
        assert not [line for line in lines if secret in line]
        assert secret not in repr(made) and secret not in repr(parsed)
        rows = await region.pool.query("SELECT t::text || a::text FROM token t, audit a")
        assert rows and not [row for row in rows if secret in row[0] or secret.encode().hex() in row[0]]
        [(salt, hashed)] = await region.pool.query("SELECT salt, hash FROM token")
        assert bytes(hashed) == hash_of(bytes(salt), secret)


@pytest_twisted.ensureDeferred
async def test_a_repeated_key_gives_the_same_token_without_its_secret(database: str) -> None:
    async with region_on(database) as region:
        alice = replace(await region.user(), idempotency_key="key-1", fingerprint="f1")
        first = await region.token(alice)
        again = await region.token(alice)
        assert again.token == first.token and again.text is None
        with pytest.raises(errors.IdempotencyKeyReused):
            await region.token(replace(alice, fingerprint="f2"), "another")
        with pytest.raises(errors.NameTaken):
            await region.token(replace(alice, idempotency_key="key-2"))


@pytest_twisted.ensureDeferred
async def test_requests_with_one_key_at_once_make_one_account(database: str) -> None:
    async with region_on(database) as region:
        local = replace(await region.as_local(), idempotency_key="key-1", fingerprint="f1")
        made = await gatherResults(
            [
                Deferred.fromCoroutine(region.accounts.create_account(local, name="bob", role=Role.USER))
                for _ in range(6)
            ],
            consumeErrors=True,
        )
        assert len({account.id for account in made}) == 1
        rows = await region.pool.query("SELECT actor, action, request_id FROM audit WHERE action = 'account.create'")
        assert rows == [("local", "account.create", "test-1")]


@pytest_twisted.ensureDeferred
async def test_a_refused_request_does_not_use_up_its_key(database: str) -> None:
    async with region_on(database) as region:
        await region.user("bob")
        local = replace(await region.as_local(), idempotency_key="key-1", fingerprint="f1")
        with pytest.raises(errors.NameTaken):
            await region.accounts.create_account(local, name="bob", role=Role.USER)
        other = replace(local, fingerprint="f2")
        assert (await region.accounts.create_account(other, name="carol", role=Role.USER)).name == "carol"


@pytest_twisted.ensureDeferred
async def test_a_user_has_only_its_own(database: str) -> None:
    async with region_on(database) as region:
        local, alice, bob = await region.as_local(), await region.user("alice"), await region.user("bob")
        of_alice, of_bob = await region.token(alice), await region.token(bob)
        listed = await region.accounts.list_tokens(alice, account=None, limit=10, after=None)
        assert listed == [of_alice.token]
        everything = await region.accounts.list_tokens(local, account=None, limit=10, after=None)
        assert {token.id for token in everything} == {of_alice.token.id, of_bob.token.id}
        assert await region.accounts.list_tokens(local, account="bob", limit=10, after=None) == [of_bob.token]
        pages = [
            await region.accounts.list_tokens(local, account=None, limit=1, after=after)
            for after in (None, format_id(Prefix.TOKEN, everything[0].id), format_id(Prefix.TOKEN, everything[1].id))
        ]
        assert [list(page) for page in pages] == [[everything[0]], [everything[1]], []]
        bobs = format_id(Prefix.TOKEN, of_bob.token.id)
        for refused in (
            region.accounts.token(alice, bobs),
            region.accounts.revoke_token(alice, bobs),
            region.accounts.list_tokens(alice, account="bob", limit=10, after=None),
            region.token(alice, "x", account="bob"),
            region.accounts.account(alice, "bob"),
        ):
            with pytest.raises(errors.NotFound):
                await refused
        for refused in (
            region.accounts.create_account(alice, name="eve", role=Role.ADMIN),
            region.accounts.change_account(alice, "alice", changes={"disabled": True}),
        ):
            with pytest.raises(errors.NotPermitted):
                await refused
        assert (await region.token(local, "given", account="bob")).token.account_name == "bob"


@pytest_twisted.ensureDeferred
async def test_the_local_account_is_made_once_and_has_no_tokens(database: str) -> None:
    async with region_on(database) as region:
        others = [Accounts(region.clock, region.store) for _ in range(4)]
        callers = await gatherResults([Deferred.fromCoroutine(each.local_caller()) for each in others])
        assert len(set(callers)) == 1 and callers[0].is_admin and not callers[0].read_only
        with pytest.raises(errors.NotPermitted, match="no tokens"):
            await region.token(await region.as_local())
        with pytest.raises(errors.NameTaken):
            await region.user("local")


@pytest_twisted.ensureDeferred
async def test_bootstrap_makes_the_first_admin_once(database: str) -> None:
    async with region_on(database) as region:
        await region.accounts.local_caller()
        made = await gatherResults([Deferred.fromCoroutine(region.accounts.bootstrap()) for _ in range(3)])
        [first] = [token for token in made if token is not None]
        caller = await region.caller(first.text)
        assert caller is not None and caller.is_admin and caller.name == "admin"
        assert await region.accounts.bootstrap("other") is None


@pytest_twisted.ensureDeferred
async def test_the_cache_is_bounded() -> None:
    class Everybody(AccountStore):
        def __init__(self) -> None:
            """Without a database."""

        async def credential(self, token: int) -> Credential | None:
            account = AccountView(token, f"a{token}", Role.USER, False, datetime.now(UTC))
            return Credential(account, False, StoredSecret(b"", hash_of(b"", SECRET)), None)

    accounts = Accounts(Clock(), Everybody())
    for number in range(CACHE_SIZE + 10):
        assert await accounts.authenticate(f"Bearer {format_token(number, SECRET)}".encode())
    assert len(accounts._remembered) == CACHE_SIZE


SECRET = make_secret(bytes(range(32)))
