"""A cluster with hundreds of NICs does not hold up the region's reactor."""

from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred

from clusterd.protocol.values import InterfaceReport
from tests.regiond.storage.region import region_on
from tests.regiond.storage.test_topology import registered
from tests.turns import collections_as_in_daemons, longest_stall, longest_turn_during

reactor: Any = global_reactor

NICS = 400


def reports(own: int, *, up: bool = True) -> list[InterfaceReport]:
    return [
        InterfaceReport(f"eth{n}", f"10.{n >> 8}.{n & 255}.0/24", (f"10.{n >> 8}.{n & 255}.{own}",), up=up)
        for n in range(NICS)
    ]


@pytest_twisted.ensureDeferred
async def test_400_interfaces_that_come_change_and_go(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        turns = {}
        with collections_as_in_daemons():
            for what, picture in (
                ("appear", reports(1)),
                ("are the same", reports(1)),
                ("change", reports(2, up=False)),
                ("vanish", []),
                ("return", reports(2)),
            ):
                applying = Deferred.fromCoroutine(region.clusters.apply_topology(rack, picture))
                results: list[Any] = []
                turns[what] = await longest_turn_during(applying.addCallback(results.append))
                assert results, what
        print({what: f"{turn * 1000:.1f} ms" for what, turn in turns.items()})
        assert max(turns.values()) < longest_stall(), turns
        assert len(await region.reads.subnets()) == NICS
