"""How soon a new host map is answered while others are removed: what is accepted, clusterd's own driver, a real client.

Half of the changes are removals and half additions, as at a site where machines come and go.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from clusterd.dhcp.backend import Backend
from clusterd.protocol.values import HostMap, Identifier
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.site import DrivenSite

SUBNET = "10.190.0.0/16"
CHANGES_PER_SECOND = 10
LONGEST_SECONDS = 60.0


async def mixed_ms(
    backend: Backend, network: Network, directory: Path, reactor: Any, seconds: float
) -> dict[str, float]:
    """Milliseconds from the acceptance of an addition to a client's first offer of its address; median and longest."""
    pairs = int(seconds * CHANGES_PER_SECOND / 2)
    removed, added = _numbered(1, pairs), _numbered(1 + pairs, pairs)
    site = DrivenSite(directory, backend, reactor)
    clients = ThreadPool(0, pairs)  # of their own: who waits for an answer must not keep the backend from its threads
    clients.start()
    await site.start()
    try:
        await site.change(SUBNET, removed[1:])  # a subnet that is new is a comparison of everything, which is over
        await site.change(SUBNET, removed[:1])  # when this is
        answers: list[Deferred[float]] = []
        began = reactor.seconds()
        for number, (doomed, new) in enumerate(zip(removed, added, strict=True)):
            for part in (0.0, 0.5):
                wait = began + (number + part) * 2 / CHANGES_PER_SECOND - reactor.seconds()
                if wait > 0:
                    await task.deferLater(reactor, wait)
                if part:
                    answers.append(deferToThreadPool(reactor, clients, _answered, network, new, time.monotonic()))
                    await site.accept(SUBNET, [new])
                else:
                    await site.accept(SUBNET, [], [doomed.identifier])
        found = await gatherResults(answers)
        await site.change(SUBNET, [], [new.identifier for new in added])
    finally:
        await site.stop()
        clients.stop()
    return {"median": round(statistics.median(found), 1), "longest": round(max(found), 1)}


def _numbered(first: int, count: int) -> Sequence[HostMap]:
    """In SUBNET, for MAC addresses of their own."""
    return [
        HostMap(Identifier.mac(f"00:16:3f:00:{n >> 8:02x}:{n & 255:02x}"), f"10.190.{n >> 8}.{n & 255}")
        for n in range(first, first + count)
    ]


def _answered(network: Network, host_map: HostMap, began: float) -> float:
    """Ask until there is an offer of the address; milliseconds since it began. Blocks."""
    with RawClient4(network) as client:
        while (offer := client.discover(host_map.identifier.text, timeout=0.02)) is None:
            assert time.monotonic() - began < LONGEST_SECONDS, f"no offer within {LONGEST_SECONDS} s"
    assert offer.address == host_map.address, offer
    return (time.monotonic() - began) * 1000
