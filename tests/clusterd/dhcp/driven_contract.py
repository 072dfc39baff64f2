"""What becomes of host maps, behind the driver, when their DHCP server is in trouble: it ends in repair or is reported.

Every backend passes these scenarios, on a fake and with its real server; a test module makes a `TroubledServer` of it.
"""

import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from twisted.internet import reactor

from clusterd.dhcp.backend import Backend
from clusterd.dhcp.host_system import FileVersion
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.log_events import logged
from tests.lab.site import DrivenSite
from tests.waiting import until

HASTE = 300.0  # whole sets are compared every second, and the first retry comes after some milliseconds
NET = "192.0.2.0/24"
ONE = HostMap(Identifier.mac("00:16:3e:aa:01:01"), "192.0.2.61", "one")
TWO = HostMap(Identifier.mac("00:16:3e:aa:01:02"), "192.0.2.62", "two")
THREE = HostMap(Identifier.mac("00:16:3e:aa:01:03"), "192.0.2.63", "three")


class TroubledServer(Protocol):
    """A DHCP server with an empty set of host maps, what can happen to it, and what is then said (patterns)."""

    words_when_away: str
    words_when_full: str
    refused: tuple[HostMap, str]  # a host map in NET that it does not take, and why

    @property
    def backend(self) -> Backend: ...

    def new_backend(self) -> Backend:
        """As clusterd makes it at its start."""

    async def written(self) -> object:
        """What is another whenever the server is given host maps, or their files are written."""

    async def serves(self, host_map: HostMap) -> bool:
        """Whether the client is given the address: asked of the server, where there is one."""

    async def lose(self, host_map: HostMap) -> None:
        """Somebody else takes the host map out of the server's state."""

    async def lose_everything(self) -> None:
        """While the server is stopped: its state is gone, that of others stays."""

    async def stop(self) -> None: ...

    async def start(self) -> None: ...

    async def fill_disk(self) -> None: ...

    async def free_disk(self) -> None: ...


Scenario = Callable[[TroubledServer, DrivenSite], Coroutine[Any, Any, None]]


@asynccontextmanager
async def driven(server: TroubledServer, directory: Path, *, haste: float = HASTE) -> AsyncIterator[DrivenSite]:
    """A site with the driver in front of this server; ONE and TWO are served."""
    site = DrivenSite(directory, server.backend, reactor, haste=haste)
    await site.start()
    try:
        await site.change(NET, [ONE, TWO])
        assert await server.serves(ONE) and await server.serves(TWO)
        yield site
    finally:
        await site.stop()


async def a_lost_host_map_is_put_back_and_told(server: TroubledServer, site: DrivenSite) -> None:
    with logged() as events:
        await server.lose(ONE)
        await until(lambda: sum(state.drift_repaired for state in site.reported) == 1)
    assert await server.serves(ONE) and await server.serves(TWO)
    repaired = [event["address"] for event in events if event["event"] == "host-map.drift-repaired"]
    assert repaired == [ONE.address]
    assert site.state(NET).error is None


async def a_server_that_has_none_left_is_given_all_again(server: TroubledServer, site: DrivenSite) -> None:
    """Its list is empty, which is no reason to take anything from anybody."""
    await server.lose(ONE)
    await server.lose(TWO)
    await until(lambda: sum(state.drift_repaired for state in site.reported) == 2)
    assert await server.serves(ONE) and await server.serves(TWO)
    assert site.state(NET).error is None and site.state(NET).applied_generation == 1


async def a_server_that_is_away_is_said_and_given_everything_at_its_return(
    server: TroubledServer, site: DrivenSite
) -> None:
    await server.stop()
    await site.accept(NET, [THREE], [TWO.identifier])
    await until(lambda: site.state(NET).error is not None)
    said, applied = site.state(NET).error, site.state(NET).applied_generation
    assert re.search(server.words_when_away, said or "") and applied == 1
    await server.start()
    await until(lambda: site.state(NET).applied_generation == 2)
    assert await server.serves(ONE) and await server.serves(THREE) and not await server.serves(TWO)
    assert site.state(NET).error is None


async def a_server_that_was_restarted_behind_our_back_serves_what_it_did(
    server: TroubledServer, site: DrivenSite
) -> None:
    await server.stop()
    await server.start()
    assert await server.serves(ONE)
    await site.change(NET, [THREE])
    assert await server.serves(ONE) and await server.serves(TWO) and await server.serves(THREE)


async def a_server_that_came_back_without_its_state_is_given_it_again(server: TroubledServer, site: DrivenSite) -> None:
    async def serves_as_before() -> bool:
        return await server.serves(ONE) and await server.serves(TWO)

    await server.stop()
    await server.lose_everything()
    await server.start()
    await until(serves_as_before)
    await site.change(NET, [THREE])
    assert await serves_as_before() and await server.serves(THREE)
    assert site.state(NET).error is None


async def a_restarted_clusterd_with_nothing_to_do_writes_nothing(server: TroubledServer, site: DrivenSite) -> None:
    await site.stop()
    before = await server.written(), version_of(site.store_file)
    reported = len(site.reported)
    await site.start_again(server.new_backend())
    await site.stop()  # what it begins with, a comparison of everything, is finished first
    assert (await server.written(), version_of(site.store_file)) == before
    assert all(state.error is None and not state.drift_repaired for state in site.reported[reported:])
    assert await server.serves(ONE) and await server.serves(TWO)


def version_of(*paths: Path) -> list[FileVersion | None]:
    """What changes whenever one of the files is written or replaced, and not when it is read."""
    return [FileVersion.of(path) for path in paths]


async def a_full_disk_is_said_and_heals(server: TroubledServer, site: DrivenSite) -> None:
    await server.fill_disk()
    await site.accept(NET, [THREE])
    await until(lambda: site.state(NET).error is not None)
    assert re.search(server.words_when_full, site.state(NET).error or "")
    assert await server.serves(ONE) and await server.serves(TWO)
    await server.free_disk()
    await until(lambda: site.state(NET).applied_generation == 2)
    assert await server.serves(ONE) and await server.serves(THREE) and site.state(NET).error is None


async def a_refused_host_map_is_reported_and_the_others_are_served(server: TroubledServer, site: DrivenSite) -> None:
    host_map, words = server.refused
    before = len(site.reported)
    await site.change(NET, [host_map, THREE])
    assert [rejected.identifier for rejected in site.state(NET).rejected] == [host_map.identifier]
    # Taking the others, the server may have read what else it is configured to do: a comparison then says it otherwise.
    said = [rejected.reason for state in site.reported[before:] for rejected in state.rejected]
    assert any(re.search(words, reason) for reason in said), said
    assert await server.serves(THREE) and not await server.serves(host_map)
    await site.change(NET, [], [host_map.identifier])
    assert site.state(NET).rejected == () and await server.serves(ONE)


SCENARIOS: list[Scenario] = [
    a_lost_host_map_is_put_back_and_told,
    a_server_that_has_none_left_is_given_all_again,
    a_server_that_is_away_is_said_and_given_everything_at_its_return,
    a_server_that_was_restarted_behind_our_back_serves_what_it_did,
    a_server_that_came_back_without_its_state_is_given_it_again,
    a_restarted_clusterd_with_nothing_to_do_writes_nothing,
    a_full_disk_is_said_and_heals,
    a_refused_host_map_is_reported_and_the_others_are_served,
]
