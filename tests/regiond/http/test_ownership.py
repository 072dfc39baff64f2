"""Every route to a thing that somebody owns: what an admin and a user get for their own, another's, and none at all.

On a real database, with the real use cases. A route to a thing without a row here is a failure.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from regiond.domain.accounts import Role
from regiond.domain.ids import Prefix, format_id
from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.domain.mutations import Actor
from regiond.http.application import Application, Incoming
from regiond.http.routes import ROUTES
from regiond.http.use_cases import UseCases
from regiond.imports.requests import Imports
from regiond.progress import Progress
from regiond.storage.accounts import AccountStore
from regiond.storage.changes import Change
from regiond.storage.imports import Counts, ImportStore
from regiond.use_cases.accounts import Accounts
from regiond.use_cases.edits import Edits
from tests.fakes.use_cases import FakeRegion
from tests.regiond.http import promises
from tests.regiond.storage.region import new_id
from tests.regiond.test_repeated_requests import Requests, requests_on

reactor: Any = global_reactor

Expected = tuple[int, int, int]  # own, another's, none

# (method, path) → body, what an admin gets, what a user gets
TABLE: dict[tuple[str, str], tuple[Any, Expected, Expected]] = {
    ("GET", "/api/v1/devices/{device}"): (None, (200, 200, 404), (200, 404, 404)),
    ("PATCH", "/api/v1/devices/{device}"): ({"comment": "x"}, (200, 200, 404), (403, 403, 403)),
    ("DELETE", "/api/v1/devices/{device}"): (None, (202, 202, 404), (403, 403, 403)),
    ("GET", "/api/v1/nodes/{node}"): (None, (200, 200, 404), (200, 404, 404)),
    ("PATCH", "/api/v1/nodes/{node}"): ({"comment": "x"}, (200, 200, 404), (403, 403, 403)),
    ("DELETE", "/api/v1/nodes/{node}"): (None, (202, 202, 404), (403, 403, 403)),
    ("POST", "/api/v1/nodes/{node}/addresses"): (
        {"interface": "192.0.2.0/24", "alias": "x"},
        (201, 201, 404),
        (201, 404, 404),
    ),
    ("GET", "/api/v1/nodes/{node}/addresses"): (None, (200, 200, 404), (200, 404, 404)),
    ("GET", "/api/v1/nodes/{node}/addresses/{reservation}"): (None, (200, 200, 404), (200, 404, 404)),
    ("DELETE", "/api/v1/nodes/{node}/addresses/{reservation}"): (None, (202, 202, 404), (202, 404, 404)),
    ("GET", "/api/v1/reservations/{reservation}"): (None, (200, 200, 404), (200, 404, 404)),
    ("PATCH", "/api/v1/reservations/{reservation}"): ({"comment": "x"}, (200, 200, 404), (200, 404, 404)),
    ("DELETE", "/api/v1/reservations/{reservation}"): (None, (204, 204, 404), (204, 404, 404)),
    ("GET", "/api/v1/imports/{import}"): (None, (200, 200, 404), (200, 404, 404)),
    ("GET", "/api/v1/groups/{group}"): (None, (200, 200, 404), (200, 404, 404)),
    ("DELETE", "/api/v1/groups/{group}"): (None, (204, 204, 404), (204, 404, 404)),
    ("GET", "/api/v1/users/{user}"): (None, (200, 200, 404), (200, 404, 404)),
    ("PATCH", "/api/v1/users/{user}"): ({"max_reservations": 9000}, (200, 200, 404), (403, 403, 403)),
    ("GET", "/api/v1/tokens/{token}"): (None, (200, 200, 404), (200, 404, 404)),
    ("DELETE", "/api/v1/tokens/{token}"): (None, (204, 204, 404), (204, 404, 404)),
}
EVERYBODY: dict[str, Any] = {"limit": 1000, "after": None}
NOBODYS = ("/api/v1/subnets/", "/api/v1/clusters/", "/api/v1/cluster-interfaces/", "/api/v1/vrfs/")
MISSING = {
    "device": "dv",
    "node": "nd",
    "reservation": "rs",
    "group": "gr",
    "user": "ac",
    "token": "tk",
    "import": "im",
}


def test_every_route_to_a_thing_has_a_row() -> None:
    of_somebody = {(r.method, r.path) for r in ROUTES if "{" in r.path and not r.path.startswith(NOBODYS)}
    assert of_somebody == set(TABLE)


class World:
    """The API on a database, and somebody's things."""

    def __init__(self, requests: Requests) -> None:
        accounts = Accounts(reactor, AccountStore(requests.region.pool))
        fake = FakeRegion().use_cases
        use = UseCases(
            **{
                **{name: getattr(fake, name) for name in UseCases.__dataclass_fields__},
                "claims": requests.claims,
                "edits": Edits(
                    requests.region.writer, requests.reads, requests.claims, Progress(reactor, requests.reads)
                ),
                "imports": Imports(reactor, ImportStore(requests.region.pool, new_id), lambda: None),
                "accounts": accounts,
            }
        )
        self.accounts = accounts
        self._imports = ImportStore(requests.region.pool, new_id)
        self.application = Application(reactor, use)
        self._context = requests.context()
        self._number = 0

    async def token(self, name: str, role: Role) -> str:
        await self.accounts.create_account(self._context, name=name, role=role)
        made = await self.accounts.create_token(self._context, name="t", account=name, read_only=False, expires_at=None)
        assert made.text is not None
        return made.text

    async def ask(self, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the body of a documented answer."""
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        raw = b"" if body is None else json.dumps(body).encode()
        answer = await self.application.answer(Incoming(method, path, headers, raw, local=False))
        assert isinstance(answer.body, bytes)
        got = {name.lower(): value for name, value in answer.headers}
        promises.check(method, path, answer.status, got, answer.body)
        return answer.status, json.loads(answer.body) if answer.body else None

    async def _import_of(self, name: str) -> str:
        (account,) = [
            each for each in await self.accounts.list_accounts(self._context, **EVERYBODY) if each.name == name
        ]
        change = Change(Actor(account.id, name, is_admin=False), "test")
        made = await self._imports.create(change, LineFormat.CSV, "address", dry_run=True, ignored=[])
        (job,) = [await self._imports.take()]
        assert job is not None and job.id == made
        await self._imports.finish(job, ImportState.REFUSED, Counts(), [], 0, None)
        return format_id(Prefix.IMPORT, made)

    async def things_of(self, name: str, admin: str) -> dict[str, str]:
        """A thing of each sort that belongs to this account, by the name of its parameter."""
        self._number += 1
        number = self._number

        async def make(path: str, body: Any) -> Any:
            status, made = await self.ask(admin, "POST", f"/api/v1/{path}", body)
            assert status == 201, made
            return made

        where = {"interface": "192.0.2.0/24"}
        node = await make("nodes", {"hostname": f"n{number}", "owner": name})
        address = await make(f"nodes/{node['id']}/addresses?wait=0", {**where, "mac": f"00:16:3e:00:02:{number:02x}"})
        device = await make("devices?wait=0", {**where, "mac": f"00:16:3e:00:01:{number:02x}", "owner": name})
        user = await make("reservations", {**where, "user": name})
        group = await make("reservations", {**where, "user": name, "count": 2})
        token = await make("tokens", {"name": f"t{number}", "account": name})
        return {
            "import": await self._import_of(name),
            "device": device["id"],
            "node": node["id"],
            "address": address["id"],
            "reservation": user["id"],
            "group": group["group"],
            "user": name,
            "token": token["id"],
        }


@asynccontextmanager
async def world(database: str) -> AsyncIterator[World]:
    async with requests_on(database) as requests:
        yield World(requests)


def url(path: str, things: dict[str, str]) -> str:
    if "/addresses/" in path:
        things = {**things, "reservation": things["address"]}
    return re.sub(r"\{([a-z]+)\}", lambda match: things[match[1]], path)


def target(method: str, path: str, things: dict[str, str]) -> str:
    """No claim is waited for: no cluster takes its host map."""
    return url(path, things) + ("?wait=0" if method == "POST" or (method == "PATCH" and "/users/" not in path) else "")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
async def test_what_is_whose(database: str, role: Role) -> None:
    async with world(database) as here:
        admin = await here.token("boss", Role.ADMIN)
        token = await here.token("asker", role)
        await here.token("other", Role.USER)
        missing = {name: f"{prefix}-zzzzzzzzzz" for name, prefix in MISSING.items()} | {"address": "rs-zzzzzzzzzz"}
        found: dict[tuple[str, str], Expected] = {}
        for method, path in TABLE:
            body = TABLE[method, path][0]
            own, foreign = await here.things_of("asker", admin), await here.things_of("other", admin)
            first, second, third = [
                (await here.ask(token, method, target(method, path, things), body))[0]
                for things in (own, foreign, missing)
            ]
            found[method, path] = (first, second, third)
        assert found == {row: expected[1 if role is Role.ADMIN else 2] for row, expected in TABLE.items()}


@pytest_twisted.ensureDeferred
async def test_a_list_has_what_the_asker_may_see(database: str) -> None:
    async with world(database) as here:
        admin = await here.token("boss", Role.ADMIN)
        token = await here.token("asker", Role.USER)
        await here.token("other", Role.USER)
        own, foreign = await here.things_of("asker", admin), await here.things_of("other", admin)
        for noun in ("device", "node", "reservation", "token", "import"):
            seen = {
                who: {one["id"] for one in (await here.ask(who, "GET", f"/api/v1/{noun}s"))[1]}
                for who in (admin, token)
            }
            assert own[noun] in seen[token] and foreign[noun] not in seen[token]
            assert {own[noun], foreign[noun]} <= seen[admin]
