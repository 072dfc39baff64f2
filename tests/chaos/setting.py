"""A region under test: servers, regionds, subnets, a node, a user; and the run of clients on it."""

import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from itertools import islice
from pathlib import Path
from signal import SIGTERM
from typing import Any, Final

from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.chaos.clients import Client, Ground, World, check_all_again
from tests.chaos.ledger import Ledger
from tests.chaos.observer import observe
from tests.chaos.postgres import Database
from tests.chaos.regionds import Regiond

CIDRS: Final = ("10.1.0.0/22", "10.2.0.0/24", "10.3.0.0/28", "2001:db8:1::/64")
HELD: Final = "10.9.0.0/24"
"""A cluster that never comes holds it: releases have to be forced."""
READY_SECONDS: Final = 60.0
CALM_SECONDS: Final = 150.0
MOST_SENT_AGAIN: Final = 150

_SUBNET: Final = """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable) VALUES (%s, 1, %s, %s, %s)"""


class Trouble(Exception):
    """The scenario could not be played."""


async def until(reactor: Any, condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for a condition, looked at in a thread where it may block. Raises Trouble."""
    end = time.monotonic() + seconds
    while not await deferToThread(condition):
        if time.monotonic() > end:
            raise Trouble(f"not within {seconds:g} s: {what}")
        await deferLater(reactor, 0.02)


async def furnish(reactor: Any, server: Database, regionds: Sequence[Regiond]) -> World:
    """Wait for the first regionds to make the tables, then make what clients need."""
    await until(reactor, lambda: all(each.ready for each in regionds), "all regionds are ready", READY_SECONDS)
    observe(server)
    for number, cidr in enumerate((*CIDRS, HELD), 1):
        network = ip_network(cidr)
        first, last = network[1], network[-2] if network.version == 4 else network[-1]
        server.query(_SUBNET, (number, cidr, str(first), str(last)))
        server.query("SELECT rebuild_free_ranges(%s)", (number,))
    server.query("INSERT INTO cluster (id, name) VALUES (1, 'never-there')")
    server.query(
        "INSERT INTO delivery (subnet, cluster, role) SELECT id, 1, 'serving' FROM subnet WHERE cidr = %s", (HELD,)
    )
    api = regionds[0].api
    api.post("users", {"name": "user", "role": "user"}, 201)
    token = api.post("tokens", {"name": "chaos", "account": "user"}, 201)["token"]
    node = api.post("nodes", {"hostname": "node-1", "macs": []}, 201)["id"]
    grounds = [Ground(cidr, _meeting_points(cidr), force=cidr == HELD) for cidr in (*CIDRS, HELD)]
    return World([each.socket for each in regionds], grounds, node, token)


def subnet_ids(server: Database) -> list[int]:
    return [number for (number,) in server.query("SELECT id FROM subnet")]


def _meeting_points(cidr: str) -> Sequence[str]:
    """The addresses that clients ask for by name: few, so that they meet, and among those that are taken unasked."""
    return [str(address) for address in islice(ip_network(cidr).hosts(), 3, 40, 3)]


class Crowd:
    """The clients of a run."""

    def __init__(self, reactor: Any, count: int, seed: int, world: World) -> None:
        self._reactor = reactor
        self._seed = seed
        self._world = world
        self.ledger = Ledger()
        self._clients = [Client(number, seed, world, self.ledger, time.monotonic) for number in range(1, count + 1)]

    def start(self) -> None:
        for client in self._clients:
            client.start()

    async def settle(self) -> None:
        """No new stories; every request gets its outcome, and some are sent once more."""
        for client in self._clients:
            client.enough.set()
        await until(
            self._reactor,
            lambda: not any(client.is_alive() for client in self._clients),
            "every client knows its outcomes",
            CALM_SECONDS,
        )
        await deferToThread(check_all_again, self.ledger, self._world, MOST_SENT_AGAIN, self._seed)


async def stop_all(regionds: Iterable[Regiond]) -> list[str]:
    """End the regionds in order; what they did wrong in their lives."""
    found = []
    for each in regionds:
        if each.alive and (code := await deferToThread(each.stop)) not in (0, -SIGTERM):  # twistd ends by its signal
            found.append(f"{each.name} stopped with {code}")
        found += each.bugs()
    return found


def database_table(dsn: str) -> str:
    """The table [database] of a regiond's configuration."""
    return f'dsn = "{dsn}"'


def make_regionds(directory: Path, count: int, dsn: str) -> list[Regiond]:
    return [Regiond(directory, f"regiond-{number}", database_table(dsn)) for number in range(1, count + 1)]
