"""The oldest PostgreSQL that this machine's distribution has does what the one that comes with the package does."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from twisted.internet import reactor as global_reactor

from regiond.storage.errors import SchemaError
from regiond.storage.schema import OLDEST_SERVER, require_server
from tests.database import TestServer, run_in_reactor
from tests.lab.unprivileged import as_nobody_special
from tests.regiond.domain.stories import Story, stories
from tests.regiond.storage.test_stories_on_postgres import same_way
from tests.requirements import need

reactor: Any = global_reactor

INSTALLED = Path("/usr/lib/postgresql")
SETTINGS = "-c listen_addresses= -c fsync=off -c unix_socket_directories={}"


def oldest() -> Path | None:
    """The programs of the oldest server there is, as Debian and its kin keep them."""
    versions = {
        int(found.parent.parent.name): found.parent
        for found in INSTALLED.glob("*/bin/postgres")
        if found.parent.parent.name.isdecimal() and int(found.parent.parent.name) >= OLDEST_SERVER // 10_000
    }
    return versions[min(versions)] if versions else None


@pytest.fixture(scope="module")
def oldest_server(module_state_directory: Path) -> Iterator[TestServer]:
    programs = oldest()
    need(programs is not None, f"no PostgreSQL of the distribution's own is installed below {INSTALLED}")
    assert programs is not None
    place = module_state_directory / "oldest"
    place.mkdir()
    enter = as_nobody_special()
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0 and not enter:
        as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(place, "nobody", "nogroup")

    def run(*command: object) -> None:
        words = [*enter, *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=place, **as_user)
        assert done.returncode == 0, done.stdout + done.stderr

    data = place / "data"
    run(programs / "initdb", "--auth=trust", "--username=hostmap", "--no-sync", data)
    run(programs / "pg_ctl", "-D", data, "-o", SETTINGS.format(place), "-l", place / "log", "-w", "start")
    try:
        server = TestServer(reactor, f"host={place} user=hostmap dbname=hostmap")
        run_in_reactor(lambda: server.run("CREATE DATABASE hostmap", database="postgres"))
        yield server
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


@pytest.fixture
def oldest_database(oldest_server: TestServer) -> Iterator[str]:
    template = run_in_reactor(oldest_server.migrated_template)
    name = run_in_reactor(lambda: oldest_server.create(template))
    yield oldest_server.dsn_for(name)
    run_in_reactor(lambda: oldest_server.drop(name))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
@pytest_twisted.ensureDeferred
async def test_a_story_goes_the_same_way_on_the_oldest_server(oldest_database: str, story: Story) -> None:
    await same_way(oldest_database, story)


@pytest.mark.parametrize("version", [140_020, 90_624])
def test_an_older_server_is_refused_with_its_version(version: int) -> None:
    with pytest.raises(SchemaError, match=r"the database is PostgreSQL 14\.20: PostgreSQL 15 or newer is needed"):
        require_server(version, "PostgreSQL 14.20 on x86_64-pc-linux-gnu, compiled by gcc")
    require_server(OLDEST_SERVER, "PostgreSQL 15.0")
