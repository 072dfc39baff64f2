"""What the region's commands do here: check whose they are, store them durably, hand them to the convergence.

An answer means *accepted*: it is on disk. The convergence then brings it to the DHCP server in its own time.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from twisted.logger import Logger

from clusterd.convergence.acceptance import Accepted, Announced, Origin, SubnetRecord
from clusterd.convergence.convergence import Convergence
from clusterd.convergence.plan import network_of
from clusterd.dhcp.host_system import RunInThread
from clusterd.host_maps.schema import StoreFailed
from clusterd.host_maps.states import Report
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol.arguments import HOST_MAPS, MAX_PAGE_ROWS
from clusterd.protocol.errors import HistoryMismatch, MalformedArgument, NotStored, UnknownSubnet
from clusterd.protocol.values import HeldSubnet, HostMap, Identifier, parse_network

T = TypeVar("T")


class AcceptedHostMaps:
    """The desired host maps as the region gives them, guarded and durable.

    `run_in_thread` runs the store's blocking calls, one after the other in the order given.
    """

    _log = Logger()

    def __init__(self, store: HostMapStore, convergence: Convergence, run_in_thread: RunInThread) -> None:
        self._store = store
        self._convergence = convergence
        self._run_in_thread = run_in_thread
        self._session: Origin | None = None

    async def held(self, cluster: str) -> tuple[Origin | None, tuple[HeldSubnet, ...]]:
        """The origin and the subnets to register with, for a cluster of this name. Raises NotStored.

        Those that are being forgotten are among them, with nothing: a region that lost its commits may not know them.
        """
        stamp = await self._stored(self._store.stamp)
        if stamp is None or stamp.cluster != cluster:
            return None, ()
        records = await self._stored(self._store.subnets)
        return stamp, tuple(
            HeldSubnet(record.subnet, record.accepted_generation, record.applied_generation, record.digest)
            for record in records
            if record.origin == stamp
        )

    async def connected(self, session: Origin, report: Report) -> None:
        """A region registered this cluster: take its changes from now on. Raises NotStored."""
        await self._stored(self._store.discard_transfers)
        self._session = session
        self._convergence.connected(session, report)

    def disconnected(self) -> None:
        """The region is away."""
        self._session = None
        self._convergence.disconnected()

    async def apply_host_maps(
        self,
        history: str,
        subnet: str,
        cidr: str,
        from_generation: int,
        to_generation: int,
        digest: int,
        upserts: Sequence[HostMap],
        removals: Sequence[Identifier],
        request_ids: Sequence[str],
    ) -> int:
        """The accepted generation after a change; raises what `ApplyHostMaps` declares."""
        announced = self._announced(history, subnet, cidr, from_generation, to_generation, digest)
        accepted = await self._stored(lambda: self._store.accept_delta(announced, upserts, removals))
        identifiers = [*(host_map.identifier for host_map in upserts), *removals]
        if len(request_ids) == len(identifiers):
            by_identifier = dict(zip(identifiers, request_ids, strict=True))
            return self._note(accepted, lambda identifier: (by_identifier[identifier],))
        return self._note(accepted, lambda _: tuple(request_ids))

    async def begin_transfer(
        self,
        history: str,
        subnet: str,
        cidr: str,
        from_generation: int | None,
        to_generation: int,
        digest: int,
        count: int,
    ) -> None:
        """Make ready for pages; raises what `BeginTransfer` declares."""
        announced = self._announced(history, subnet, cidr, from_generation, to_generation, digest)
        await self._stored(lambda: self._store.begin_transfer(announced, count))

    async def transfer_page(
        self, subnet: str, to_generation: int, upserts: Collection[HostMap], removals: Collection[Identifier]
    ) -> None:
        """Take a page; raises what `TransferPage` declares."""
        await self._stored(lambda: self._store.add_page(subnet, to_generation, upserts, removals))

    async def commit_transfer(self, subnet: str, to_generation: int) -> int:
        """The accepted generation after all pages; raises what `CommitTransfer` declares."""
        accepted = await self._stored(lambda: self._store.commit_transfer(subnet, to_generation))
        return self._note(accepted, lambda _: ())

    async def forget_subnet(self, history: str, subnet: str, cidr: str | None) -> None:
        """Drop a subnet on disk and in the server; raises what `ForgetSubnet` declares."""
        self._check(history)
        network = None if cidr is None else _network(cidr)
        record = await self._stored(lambda: self._store.forget(subnet))
        await self._convergence.forget(subnet, network if record is None else record.cidr)

    async def upload(self, subnet: str, after: Identifier | None) -> tuple[SubnetRecord, Sequence[HostMap], bool]:
        """A page of what is accepted of a subnet, and whether there is more; raises what `UploadHostMaps` declares."""
        session = self._session
        record, host_maps = await self._stored(lambda: self._store.page(subnet, after, MAX_PAGE_ROWS + 1))
        if session is None or record is None:
            raise UnknownSubnet(f"nothing of {subnet} is held here")
        if (record.origin.region, record.origin.cluster) != (session.region, session.cluster):
            raise UnknownSubnet(f"what is held of {subnet} is not from this region")
        page = next(iter(HOST_MAPS.pages_of(host_maps[:MAX_PAGE_ROWS])))
        return record, page, len(page) < len(host_maps)

    async def upload_former(self, cidr: str, after: HostMap | None) -> tuple[Sequence[HostMap], bool]:
        """A page of who may still have an address of a network without holding it, and whether there is more; raises
        what `UploadFormerHostMaps` declares.
        """
        network = network_of(_network(cidr))
        rows = await self._stored(lambda: self._store.former_page(network, after, MAX_PAGE_ROWS + 1))
        page = next(iter(HOST_MAPS.pages_of(rows[:MAX_PAGE_ROWS])))
        return page, len(page) < len(rows)

    def _note(self, accepted: Accepted, request_ids: Callable[[Identifier], tuple[str, ...]]) -> int:
        self._convergence.note_accepted(accepted, request_ids)
        return accepted.record.accepted_generation

    def _announced(
        self, history: str, subnet: str, cidr: str, from_generation: int | None, to_generation: int, digest: int
    ) -> Announced:
        return Announced(self._check(history), subnet, _network(cidr), from_generation, to_generation, digest)

    def _check(self, history: str) -> Origin:
        if self._session is None:
            raise HistoryMismatch("this cluster is not registered")
        if history != self._session.history:
            raise HistoryMismatch(f"this cluster is registered with history {self._session.history}")
        return self._session

    async def _stored(self, work: Callable[[], T]) -> T:
        try:
            return await self._run_in_thread(work)
        except StoreFailed as error:
            self._log.warn(
                "the host maps on disk cannot be used: {reason}",
                event="host-map-store.failed",
                reason=str(error),
            )
            raise NotStored(str(error)) from error


def _network(text: str) -> str:
    try:
        return parse_network(text)
    except ValueError as error:
        raise MalformedArgument(str(error)) from error
