"""Hearing a cluster: what it hands up is bounded, and one that cannot be believed is asked again, ever less often."""

from typing import Any

import pytest
from twisted.internet.task import Clock

from clusterd.protocol import commands
from clusterd.protocol.connection import Link, Responders
from clusterd.protocol.values import HostMap, Identifier
from regiond.cluster_rpc.connections import Connection
from regiond.hearing import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Hearing
from tests.clusterd.links import Outcome, linked
from tests.clusterd.log_events import logged
from tests.regiond.site import HISTORY, NET, SUBNET, mac

MOST = 10


class Endless(Responders):
    """A cluster that always has one host map more, or one `former` host map."""

    def __init__(self, *, former: bool) -> None:
        super().__init__()
        self.asked = 0
        self.is_honest = False
        self._former = former

    @commands.UploadHostMaps.responder
    def upload_host_maps(self, subnet: str, after: tuple[Identifier, ...]) -> dict[str, Any]:
        return {
            "cidr": "10.0.0.0/16",
            "history": "another",
            "accepted_generation": 1,
            "applied_generation": 1,
            **({"host_maps": [], "more": 0} if self._former else self._one_more()),
        }

    @commands.UploadFormerHostMaps.responder
    def upload_former_host_maps(self, cidr: str, after: tuple[HostMap, ...]) -> dict[str, Any]:
        return self._one_more() if self._former else {"host_maps": [], "more": 0}

    def _one_more(self) -> dict[str, Any]:
        self.asked += 1
        address = f"10.0.{self.asked >> 8}.{self.asked & 255}"
        return {"host_maps": [HostMap(mac(self.asked), address)], "more": int(not self.is_honest)}


class Store:
    """What is written down, counted."""

    def __init__(self) -> None:
        self.kept = 0
        self.complete_now = False

    async def may_have(self, cluster: int) -> list[int]:
        return []

    async def take(self, evidence: object) -> None:
        self.kept = 0

    async def add_maps(self, cluster: int, name: str, host_maps: tuple[HostMap, ...], *, former: bool = False) -> None:
        self.kept += len(host_maps)

    async def waits_for(self, cluster: int) -> bool:
        return True

    async def complete(self, cluster: int, name: str) -> None:
        self.complete_now = True

    async def heard(self, cluster: int) -> None: ...

    async def to_settle(self) -> list[int]:
        return []

    async def finish(self) -> str | None:
        return None


@pytest.mark.parametrize(("former", "what"), [(False, "host maps"), (True, "former host maps")])
def test_a_cluster_that_hands_up_host_maps_without_end_is_not_believed_and_asked_again_ever_less_often(
    former: bool, what: str
) -> None:
    clock, cluster, store = Clock(), Endless(former=former), Store()
    there = linked(clock, client=cluster)
    assert isinstance(there.server, Link)
    hearing: Any = Hearing(clock, store, most=MOST)  # type: ignore[arg-type]
    connection = Connection(7, "rack-7", 1, there.server, HISTORY, unheard=True)
    with logged() as events:
        heard = Outcome(hearing.hear(connection, [NET]))
        there.flush()
        delay, told = FIRST_RETRY_SECONDS, 1
        while told < 9:
            assert len(events) == told and store.kept <= MOST + 1 and not store.complete_now
            clock.advance(delay)
            there.flush()
            delay, told = min(2 * delay, LONGEST_RETRY_SECONDS), told + 1
    assert {(event["event"], event["cluster"], event["subnet"]) for event in events} == {
        ("recovery.not-heard", "rack-7", SUBNET)
    }
    assert f"more than {MOST} {what}" in events[0]["reason"]
    assert cluster.asked == 9 * (MOST + 1)
    cluster.is_honest = True
    clock.advance(delay)
    there.flush()
    assert heard.done() and heard.error is None and store.complete_now
