"""What a regiond wants to know of a cluster that is connected to another one: real database, doorbells and links."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import AddressInUse, Identifier
from regiond.catalogue import Catalogue
from regiond.cluster_rpc.siblings import Siblings
from regiond.domain.leases import LeaseListing
from regiond.storage.doorbell import Doorbell, Rung
from regiond.storage.probing import ProbingReads
from regiond.storage.questions import QuestionStore
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.leases import Leases
from regiond.use_cases.probes import CannotProbe, Probed, Probes
from regiond.use_cases.requests import Caller, RequestContext
from tests.fakes.backend import FakeBackend
from tests.regiond.office import Office, Site, office, site
from tests.regiond.storage.region import new_id
from tests.waiting import until

reactor: Any = global_reactor
NET = "192.0.2.0/24"
SQUATTER = "00:16:3e:00:00:66"
LEASE = ServerLease("192.0.2.9", (Identifier.mac("00:16:3e:00:00:01"),), "guest", 2_000_000_000)
ADMIN = RequestContext(Caller(1, "root", is_admin=True, read_only=False), "test-request")


class Sibling:
    """What an office needs to ask and to be asked."""

    def __init__(self, at: Office, dsn: str) -> None:
        self.at = at
        self.heard: list[Rung] = []
        pool = at.region.pool
        self.bell = Doorbell(reactor, dsn, pool, self._rung)
        self.asks = Siblings(reactor, at.connections, QuestionStore(pool), self.bell, new_id)
        inventory = Inventory(at.region.reads, Catalogue(reactor, at.region.reads))
        self.leases = Leases(reactor, self.asks, inventory, at.region.reads)
        self._probes = Probes(self.asks, ProbingReads(pool))

    def _rung(self, what: Rung) -> None:
        self.heard.append(what)
        self.asks.heard_of_questions(what.asked)
        self.asks.heard_of_answers(what.answered)

    async def probe(self, *addresses: str) -> Probed:
        return await self._probes.ask(await self.at.subnet(NET), addresses)

    async def listing(self, addresses: Sequence[str] = ()) -> LeaseListing:
        return await self.leases.on_subnet(ADMIN, NET, addresses=addresses, macs=(), limit=1000, after=None)


@dataclass
class Pair:
    """`rack` is connected to `there`."""

    here: Sibling
    there: Sibling
    rack: Site

    async def rows(self) -> int:
        [(count,)] = await self.here.at.region.pool.query("SELECT count(*) FROM cluster_question")
        return int(count)


@asynccontextmanager
async def pair(dsn: str, directory: Path) -> AsyncIterator[Pair]:
    for name in ("here", "there"):
        (directory / name).mkdir()
    async with (
        office(dsn, directory / "here") as one,
        office(dsn, directory / "there") as other,
        site(directory / "rack", other.socket, FakeBackend()) as rack,
    ):
        await rack.report(NET)
        made = Pair(Sibling(one, dsn), Sibling(other, dsn), rack)
        for sibling in (made.here, made.there):
            sibling.bell.start()
        await until(lambda: bool(made.here.heard and made.there.heard))
        try:
            yield made
        finally:
            for sibling in (made.here, made.there):
                await sibling.bell.stop()


@pytest_twisted.ensureDeferred
async def test_probes_and_leases_of_a_cluster_of_another_regiond(database: str, tmp_path: Path) -> None:
    async with pair(database, tmp_path) as it:
        it.rack.prober.squatters = {"192.0.2.6": SQUATTER}
        assert (await it.here.probe("192.0.2.5", "192.0.2.6")).in_use == [AddressInUse("192.0.2.6", SQUATTER)]
        it.rack.prober.refusal = "eth0 is down"
        with pytest.raises(CannotProbe, match="rack-7: eth0 is down"):
            await it.here.probe("192.0.2.5")

        for number in range(1, 21):
            address = f"192.0.2.{number}"
            it.rack.backend.leased[address] = ServerLease(address, LEASE.identifiers, "guest", LEASE.expires)
        listing = await it.here.listing()
        assert len(listing.leases) == 20 and [source.error for source in listing.sources] == [None]
        assert listing == await it.there.listing()
        (found,) = (await it.here.listing([LEASE.address])).leases
        assert found.found.lease == LEASE
        await it.here.leases.end([found.found], "test-request")
        assert LEASE.address not in it.rack.backend.leased
        assert await it.rows() == 0


@pytest_twisted.ensureDeferred
async def test_a_regiond_that_is_gone_is_a_cluster_that_nobody_can_ask(database: str, tmp_path: Path) -> None:
    async with pair(database, tmp_path) as it:
        it.there.asks.wait_no_longer()
        with pytest.raises(CannotProbe, match="cluster rack-7 cannot be asked"):
            await it.here.probe("192.0.2.5")
        assert await it.rows() == 0
        await it.rack.connection.stop()
        await until(lambda: not it.there.at.connections.clusters())

        async def is_noted() -> bool:
            (source,) = (await it.here.listing()).sources
            return source.error == "it is not connected"

        await until(is_noted)
