"""regiond as a process, and all of schemathesis' checks as an admin, a user, a token that may only read, and nobody.

A slice of it with the other tests; `make conformance` (EXAMPLES=100 for each route) is the whole.
"""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread

from regiond.domain.accounts import Role
from regiond.storage.accounts import AccountStore
from regiond.use_cases.accounts import Accounts
from regiond.use_cases.requests import Caller, RequestContext
from tests.regiond.storage.region import region_on

reactor: Any = global_reactor

EXAMPLES = os.environ.get("EXAMPLES")
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONFIG = Path(__file__).parent / "schemathesis.toml"
LONGEST_SECONDS = 3600.0

# What a slice asks: one route of each sort.
SLICE = r"^/(api/v1/(reservations|nodes/\{node\}|subnets/\{subnet\}/ranges|tokens)|readyz)$"


def start(config: Path) -> "tuple[subprocess.Popen[str], int]":
    """The daemon, and the port it listens at."""
    command = [str(BIN / "twistd"), "--nodaemon", "--pidfile=", "regiond", "--config", str(config)]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert daemon.stdout is not None
    told = []
    for line in daemon.stdout:
        told.append(line)
        if '"regiond.started"' in line:
            (where,) = [address for address in json.loads(line)["http"] if address.startswith("tcp:")]
            return daemon, int(where.rpartition(":")[2])
    raise AssertionError("regiond did not start: " + "".join(told))


def drain(daemon: "subprocess.Popen[str]") -> list[str]:
    """Its log from now until it ends, but for the requests."""
    assert daemon.stdout is not None
    with daemon.stdout:
        return [line for line in daemon.stdout if '"http.request"' not in line]


@asynccontextmanager
async def running(database: str, directory: Path) -> AsyncIterator[tuple[str, dict[str, str | None]]]:
    """The URL of a regiond with two networks, and a token for each sort of caller. It must not log a bug."""
    async with region_on(database, reactor) as region:
        await region.cluster("rack-a", "192.0.2.0/24", "2001:db8::/64")
        accounts = Accounts(reactor, AccountStore(region.pool))
        context = RequestContext(Caller(region.owner, "tester", is_admin=True, read_only=False), "test")
        tokens: dict[str, str | None] = {"nobody": None}
        for name, role, read_only in (
            ("admin", Role.ADMIN, False),
            ("user", Role.USER, False),
            ("reader", Role.ADMIN, True),
        ):
            await accounts.create_account(context, name=f"as-{name}", role=role)
            made = await accounts.create_token(
                context, name="t", account=f"as-{name}", read_only=read_only, expires_at=None
            )
            tokens[name] = made.text
    config = directory / "regiond.toml"
    config.write_text(
        f'state_directory = "{directory}/state"\n[http]\nlisten = ["tcp:127.0.0.1:0"]\n[database]\ndsn = "{database}"\n'
    )
    daemon, port = await deferToThread(start, config)
    log = deferToThread(drain, daemon)
    try:
        yield f"http://127.0.0.1:{port}", tokens
    finally:
        daemon.terminate()
        lines = await log
        daemon.wait()
    assert not [line for line in lines if "traceback" in line]


def schemathesis(url: str, token: str | None, *arguments: str) -> "subprocess.CompletedProcess[str]":
    header = [] if token is None else ["--header", f"Authorization: Bearer {token}"]
    command = [str(BIN / "schemathesis"), "--config-file", str(CONFIG), "run", f"{url}/api/v1/openapi.json"]
    command += ["--checks", "all", *header, *arguments]
    command += ["--no-color", "--generation-deterministic", "--suppress-health-check", "all", "--warnings", "off"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.conformance.hooks", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False, env=environment, cwd=ROOT
    )


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("who", ["admin", "user", "reader", "nobody"])
async def test_the_api_does_what_its_document_says(database: str, state_directory: Path, who: str) -> None:
    if EXAMPLES is None:
        extent = ["--phases", "examples,fuzzing", "--max-examples", "2", "--include-path-regex", SLICE]
    else:
        extent = ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES]
    async with running(database, state_directory) as (url, tokens):
        done = await deferToThread(schemathesis, url, tokens[who], *extent)
    assert done.returncode == 0, done.stdout + done.stderr
    if EXAMPLES is not None:
        print(done.stdout)
