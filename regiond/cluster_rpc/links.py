"""Makes the region's end of each cluster's connection, and ends them."""

from collections.abc import Awaitable, Sequence

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from clusterd.daemon.mutual_tls import peer_certificate
from clusterd.protocol.connection import Link
from regiond.cluster_rpc.connections import Connections
from regiond.cluster_rpc.identify import Identify
from regiond.cluster_rpc.listeners import Listeners
from regiond.cluster_rpc.newcomer import Newcomer
from regiond.cluster_rpc.refusals import Refusals
from regiond.cluster_rpc.registration import MAX_HEARD_AT_ONCE, Shared
from regiond.cluster_rpc.reports import ClusterResponders
from regiond.storage.reads import RegionIdentity

LONGEST_NOTING_SECONDS = 1.0
MAX_COMMANDS_IN_FLIGHT = 16  # of one cluster, which reports one thing after the other; unpacked each may be megabytes
MAX_LINKS_EACH = 8  # with one certificate: one that speaks for the cluster, and those that are about to


class ClusterLinkFactory(Factory):
    """Makes a link and its responders for each connection."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        region: RegionIdentity,
        connections: Connections,
        listeners: Listeners,
        identify: Identify,
    ) -> None:
        self._clock = clock
        turns = DeferredSemaphore(MAX_HEARD_AT_ONCE)
        self.endpoints: Sequence[str] = ()  # where clusters are told to connect, if the region was told
        self._shared = Shared(
            region, connections, listeners, identify, self._in_background, turns, lambda: self.endpoints, Refusals()
        )
        self.peers: dict[Link, ClusterResponders] = {}
        self._by_serial: dict[str, list[ClusterResponders]] = {}  # the oldest first
        self._notes: set[Deferred[None]] = set()  # of ends that are being recorded
        self._log = Logger(namespace="region.link")

    def buildProtocol(self, addr: IAddress | None) -> amp.AMP:
        link = Link(self._clock, max_commands=MAX_COMMANDS_IN_FLIGHT)
        responders = ClusterResponders(link, Newcomer(self._clock, link), self._shared)
        link.answer_with(responders)
        responders.newcomer.wait()
        self.peers[link] = responders
        link.made.addCallback(lambda _: self._came(link, responders))
        link.lost.addCallback(lambda _: self._lost(link, responders))
        return link

    def by_serial(self) -> dict[str, list[ClusterResponders]]:
        """Those who are connected, by the serial of the certificate that they were let in with."""
        return {serial: list(peers) for serial, peers in self._by_serial.items()}

    async def close(self) -> None:
        """Cut every connection; returns when it is recorded that these clusters are not connected any more.

        A database that is away is not waited for: nothing heard of them tells the same a minute later. The listeners
        have to be closed already: what connects meanwhile is not waited for either.
        """
        links = list(self.peers)
        ends: list[Deferred[None]] = [Deferred() for _ in links]
        for link, end in zip(links, ends, strict=True):
            link.lost.addCallback(end.callback)
            link.abort()
        for end in ends:
            await end
        noted: Deferred[None] = Deferred()

        def enough(_: object = None) -> None:
            if not noted.called:
                noted.callback(None)

        timer = self._clock.callLater(LONGEST_NOTING_SECONDS, enough)
        DeferredList(list(self._notes)).addCallback(enough)
        await noted
        if timer.active():
            timer.cancel()

    def _came(self, link: Link, responders: ClusterResponders) -> None:
        """A cluster needs one connection. Whoever has its certificate and opens many takes no more than a few."""
        shown = peer_certificate(link.transport)
        if shown is None:
            return
        peers = self._by_serial.setdefault(shown.serial, [])
        peers.append(responders)
        link.lost.addCallback(lambda _: self._forget(shown.serial, responders))
        if len(peers) > MAX_LINKS_EACH:
            oldest = next(peer for peer in peers if not peer.has_registered)
            self._log.warn(
                "{peer} makes room: there are more than {most} connections with the certificate of {cluster}",
                event="link.surplus",
                peer=oldest.link.peer,
                most=MAX_LINKS_EACH,
                cluster=shown.common_name,
            )
            oldest.link.abort()

    def _forget(self, serial: str, responders: ClusterResponders) -> None:
        peers = self._by_serial[serial]
        peers.remove(responders)
        if not peers:
            del self._by_serial[serial]

    def _lost(self, link: Link, responders: ClusterResponders) -> None:
        del self.peers[link]
        responders.lost()

    def _in_background(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        def failed(failure: Failure) -> None:
            self._log.failure("the end of a connection was not noted", failure, event="link.lost-failed")

        note = Deferred.fromCoroutine(run()).addErrback(failed)
        self._notes.add(note)
        note.addBoth(lambda _: self._notes.discard(note))
