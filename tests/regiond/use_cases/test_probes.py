"""Who is asked for a subnet's addresses, on a real PostgreSQL with the real parts of clusterd behind real sockets."""

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from clusterd.protocol.values import AddressInUse, InterfaceReport
from regiond.cluster_rpc.asking import AskHere
from regiond.storage.probing import ProbedFrom, ProbingReads
from regiond.use_cases.probes import CannotProbe, Probes
from tests.fakes.older import OlderCluster
from tests.regiond.office import Office, office
from tests.regiond.test_older_clusters import linked
from tests.regiond.test_older_clusters import report as report_older
from tests.regiond.use_cases.test_pairs import NET, Wire, wire

SQUATTER = "00:16:3e:00:00:66"
ADDRESSES = ["192.0.2.5", "192.0.2.6"]


def probes(at: Office) -> Probes:
    return Probes(AskHere(at.connections), ProbingReads(at.region.pool))


async def refusal(at: Office, subnet: int) -> list[str]:
    with pytest.raises(CannotProbe) as refused:
        await probes(at).ask(subnet, ADDRESSES)
    return refused.value.reasons


async def rack_a(on: Wire) -> int:
    return next(found.cluster for found in await on.pairs.clusters_on(NET) if found.name == "rack-a")


@pytest_twisted.ensureDeferred
async def test_one_cluster_of_a_pair_is_asked_and_the_other_where_it_cannot(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        first, second = on.first.prober, on.second.prober
        first.squatters = second.squatters = {"192.0.2.6": SQUATTER}
        first.refusal = "eth0 is down"
        reasons = await refusal(on.at, on.subnet)
        assert reasons == ["cluster rack-a: eth0 is down"], "who does not serve the subnet is not asked"
        await on.pairs.confirm(on.admin, NET, "rack-b")
        probed = await probes(on.at).ask(on.subnet, ADDRESSES)
        assert probed.in_use == [AddressInUse("192.0.2.6", SQUATTER)]
        assert second.asked == [("eth0", NET, tuple(ADDRESSES))] and probed.cluster != await rack_a(on)
        first.refusal = None
        assert (await probes(on.at).ask(on.subnet, ADDRESSES)).cluster == await rack_a(on)
        assert len(second.asked) == 1
        on.at.connections.by_cluster.clear()
        assert await refusal(on.at, on.subnet) == [
            f"cluster {name} cannot be asked: it is not connected" for name in ("rack-a", "rack-b")
        ]


@pytest_twisted.ensureDeferred
async def test_what_nobody_asked_for_is_not_taken_from_a_cluster(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        on.first.prober.squatters = {"192.0.2.5": SQUATTER}
        on.first.prober.unasked = [AddressInUse(address, SQUATTER) for address in ("192.0.2.7", "10.0.0.1")]
        assert (await probes(on.at).ask(on.subnet, ADDRESSES)).in_use == [AddressInUse("192.0.2.5", SQUATTER)]


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_does_not_know_how_is_said_to_be_too_old(database: str, tmp_path: Path) -> None:
    cluster = OlderCluster("rack-7")
    async with office(database, tmp_path) as at, linked(at, cluster):
        await report_older(cluster)
        assert await refusal(at, await at.subnet(NET)) == ["the clusterd of rack-7 is too old"]
        assert cluster.link is not None and cluster.link.connected_now


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("how", [{"up": False}, {"relayed": True}], ids=["down", "relayed"])
async def test_a_nic_that_is_not_on_the_wire_now_is_not_asked_at(database: str, tmp_path: Path, how: Any) -> None:
    async with wire(database, tmp_path) as on:
        reads = ProbingReads(on.at.region.pool)
        assert await reads.places(on.subnet) == [ProbedFrom(await rack_a(on), "rack-a", "eth0", NET)]
        await on.first.connection.report_topology((InterfaceReport("eth0", NET, ("192.0.2.1",), **how),))
        assert await reads.places(on.subnet) == []
        assert await refusal(on.at, on.subnet) == ["no cluster that serves it has a NIC on it now"]
