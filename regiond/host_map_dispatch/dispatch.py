"""Brings every connected cluster to the desired host maps of the subnets it holds.

Per (cluster, subnet) at most one delivery is in flight; changes that come meanwhile are picked up when it ends,
because a delivery reads what is desired when it starts. Nothing here is remembered that the database does not know:
a commit (told at once by the local writer, by doorbell from another regiond), a registration and the sweep all lead
to the same question, "is this cluster where it should be?".
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.protocols import amp

from clusterd.protocol import errors
from clusterd.protocol.arguments import MAX_PAGE_ROWS
from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.values import InterfaceReport, RejectedMap
from regiond.cluster_rpc.connections import Connection, Connections
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Acknowledge, Forgotten
from regiond.domain.topology import TopologyPlan
from regiond.host_map_dispatch.background import in_background
from regiond.host_map_dispatch.calls import HostMapCalls
from regiond.host_map_dispatch.record import Announce, Record
from regiond.host_map_dispatch.remarks import ahead, digest_differs
from regiond.host_map_dispatch.targets import FIRST_BACK_OFF_SECONDS, Target, Targets
from regiond.storage.deliveries import DeliveryState, Difference, Transfer
from regiond.storage.errors import DatabaseUnavailable

LONGEST_BACK_OFF_SECONDS = 60.0
MAX_ROUNDS = 10


class Clusters(Protocol):
    """`storage.topology.ClusterStore`, as far as it is needed here."""

    async def apply_topology(self, cluster: int, reports: Sequence[InterfaceReport], epoch: int) -> TopologyPlan: ...

    async def drifted(self, cluster: int, subnet: int, count: int, epoch: int) -> None: ...


class Deliveries(Protocol):
    """`storage.deliveries.DeliveryReads`."""

    async def held_by(self, clusters: Sequence[int]) -> list[DeliveryState]: ...

    async def stragglers(self, clusters: Sequence[int]) -> list[DeliveryState]: ...

    async def superseded(self, connections: Mapping[int, int]) -> list[int]: ...

    async def below(self, generations: Mapping[int, int]) -> dict[int, int]: ...

    async def difference(self, cluster: int, subnet: int, accepted: int, at_most: int) -> Difference | None: ...

    async def transfer(self, cluster: int, subnet: int, accepted: int | None) -> Transfer | None: ...


class Hears(Protocol):
    """`hearing.Hearing`, as far as it is needed here."""

    async def begin(self, reason: str, of_history: str | None) -> None: ...

    async def has_another_past(self, connection: Connection, subnet: int) -> bool: ...


class HostMapDispatch:
    """The dispatcher, and at the same time what listens to their reports (see `cluster_rpc.listeners.Reports`)."""

    _log = Logger(namespace="region.dispatch")

    def __init__(
        self,
        clock: Any,
        connections: Connections,
        clusters: Clusters,
        reads: Deliveries,
        record: Record,
        hearing: Hears,
        announce: Announce,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._clusters = clusters
        self._reads = reads
        self._record = record
        self._hearing = hearing
        self._announce = announce
        self._calls = HostMapCalls()
        self._held = Targets()
        self._moments = count(1)
        self._ready: dict[int, Connection] = {}  # by cluster, once its registration is recorded and answered

    # ---- what others tell ----

    def committed(self, subnets: Iterable[int]) -> None:
        """The desired host maps of these subnets changed."""
        for subnet in subnets:
            for target in list(self._held.by_subnet.get(subnet, {}).values()):
                self._kick(target)

    async def holdings_changed(self, cluster: int) -> None:
        """Which subnets this cluster serves was decided otherwise than by its report. The sweep finds it out, too."""
        if (connection := self._ready.get(cluster)) is not None:
            await self._adopt_all(connection)

    async def sweep(self) -> None:
        """Find the connected clusters that are not where they should be, and bring them there."""
        here = {connection.cluster: connection.epoch for connection in self._connections.by_cluster.values()}
        for cluster in await self._reads.superseded(here):
            connection = self._connections.get(cluster)
            if connection is not None and connection.epoch == here[cluster]:
                self._superseded(connection)
        await self._look_for_lost_commits()
        asked = next(self._moments)
        for state in await self._reads.stragglers(list(self._ready)):
            self._adopt(state, asked)

    async def _look_for_lost_commits(self) -> None:
        """A failover may have lost them with nothing left to deliver, under clusters that stay connected."""
        ahead: dict[int, Target] = {}
        for targets in self._held.by_cluster.values():
            for target in targets.values():
                if target.seen > (ahead[target.subnet].seen if target.subnet in ahead else 0):
                    ahead[target.subnet] = target
        below = await self._reads.below({subnet: target.seen for subnet, target in ahead.items()})
        for subnet, generation in below.items():
            target = ahead[subnet]
            if self._ready.get(target.connection.cluster) is target.connection:
                await self._lost_commits(target, target.seen, generation)

    # ---- who is connected ----

    async def welcome(self, connection: Connection, foreign: Sequence[int]) -> None:
        """From now on the cluster is delivered to. `foreign` are subnets that it holds and was never to have."""
        self._ready[connection.cluster] = connection
        await self._adopt_all(connection, foreign)

    def left(self, connection: Connection) -> None:
        """The connection is over."""
        if self._ready.get(connection.cluster) is connection:
            self.leave(connection.cluster)

    def leave(self, cluster: int) -> None:
        """Nothing is known of the cluster until it is welcome again."""
        self._ready.pop(cluster, None)
        self._held.drop_cluster(cluster)

    async def _adopt_all(self, connection: Connection, foreign: Sequence[int] = ()) -> None:
        asked = next(self._moments)
        for state in await self._reads.held_by([connection.cluster]):
            self._adopt(state, asked)
        if self._ready.get(connection.cluster) is connection:
            for subnet in foreign:
                # It would go on serving these for ever.
                if subnet not in self._held.by_cluster.get(connection.cluster, {}):
                    target = Target(connection, subnet, None, "foreign", 0, asked)
                    self._held.put(target)
                    self._kick(target)

    # ---- what clusters say (cluster_rpc.listeners.Reports) ----

    async def topology(self, connection: Connection, reports: Sequence[InterfaceReport]) -> None:
        planned = await self._clusters.apply_topology(connection.cluster, reports, connection.epoch)
        if planned.changes_interfaces:
            self._announce.topology_changed()
        await self._adopt_all(connection)

    async def host_map_state(
        self, connection: Connection, subnet: int, applied: int, rejected: Sequence[RejectedMap], error: str | None
    ) -> None:
        await self._record(
            Acknowledge(
                connection.cluster,
                subnet,
                applied_generation=applied,
                error=error,
                rejected=tuple(rejected),
                epoch=connection.epoch,
            )
        )

    async def drifted(self, connection: Connection, subnet: int, count: int) -> None:
        await self._clusters.drifted(connection.cluster, subnet, count, connection.epoch)

    # ---- delivering ----

    def _adopt(self, state: DeliveryState, asked: int) -> None:
        """Make or refresh the target of a delivery whose cluster is connected here, and look at it.

        `asked` is when the reading began: what happened to the target since then is not in it.
        """
        connection = self._ready.get(state.cluster)
        if connection is None or state.recovering:
            return
        target = self._held.by_cluster.get(state.cluster, {}).get(state.subnet)
        if target is None:
            target = Target(connection, state.subnet, state.cidr, state.role, state.accepted_generation, asked)
            self._held.put(target)
        elif asked < target.as_of:
            return
        elif not target.in_flight:
            target.accepted = state.accepted_generation
        target.seen = max(target.seen, target.accepted)
        target.cidr, target.role, target.as_of = state.cidr, state.role, asked
        if state.role == "draining" or state.accepted_generation != state.generation:
            self._kick(target)

    def _kick(self, target: Target) -> None:
        if target.in_flight:
            target.again = True
        elif not target.backing_off:
            target.in_flight = True
            in_background(self._deliver(target), target.connection)

    async def _deliver(self, target: Target) -> None:
        try:
            for _ in range(MAX_ROUNDS):
                target.again = False
                settled = await (self._bring_up_to_date(target) if target.role == "serving" else self._forget(target))
                if settled and not target.again:
                    break
            if not settled:
                raise errors.DigestMismatch(f"not settled after {MAX_ROUNDS} attempts")
            target.delay = FIRST_BACK_OFF_SECONDS
        except (LinkLost, CallTimedOut, amp.RemoteAmpError, DatabaseUnavailable, errors.ProtocolError) as error:
            self._retry(target, error)
        finally:
            target.in_flight = False
        if target.again:
            self._kick_if_current(target)

    async def _forget(self, target: Target) -> bool:
        """Whether the cluster, which has no host map of the subnet now, is to have none."""
        cluster = target.connection.cluster
        if target.role == "draining" and not await self._is_to_forget(target):
            return False
        if target.role == "foreign" and not await self._may_replace(target):
            return True
        await self._calls.forget(target.connection, target.subnet, target.cidr)
        await self._record(Forgotten(cluster, target.subnet, target.connection.epoch))
        target.accepted, target.as_of = 0, next(self._moments)
        if target.role == "serving":  # again, since we asked
            return False
        self._held.drop(target)
        return True

    async def _is_to_forget(self, target: Target) -> bool:
        """Look once more: a subnet that is served again meanwhile must not lose its host maps for a moment."""
        asked = next(self._moments)
        for state in await self._reads.held_by([target.connection.cluster]):
            if state.subnet == target.subnet and state.role == "serving":
                target.role, target.as_of = "serving", asked
                return False
        return True

    async def _bring_up_to_date(self, target: Target) -> bool:
        """One delivery of what is missing; whether the cluster is now where it was desired when this began."""
        connection, subnet = target.connection, target.subnet
        change = await self._reads.difference(connection.cluster, subnet, target.accepted, MAX_PAGE_ROWS)
        if change is not None and change.epoch > connection.epoch:
            self._superseded(connection)
            return True
        if change is None or change.to_generation == target.accepted:
            return True
        if change.to_generation < target.accepted:
            return await self._lost_commits(target, target.accepted, change.to_generation)
        try:
            accepted = await self._send(target, change)
            target.seen = max(target.seen, accepted)
        except errors.GenerationMismatch as mismatch:
            if mismatch.accepted > change.to_generation:
                return await self._lost_commits(target, mismatch.accepted, change.to_generation)
            if change.from_generation == 0:
                # It holds something after all, which at its registration was not what this region sent.
                return not await self._may_replace(target)
            steps = Acknowledge(
                connection.cluster, subnet, accepted_generation=mismatch.accepted, reset=True, epoch=connection.epoch
            )
            await self._record(steps)
            target.accepted = mismatch.accepted
            return False
        except errors.DigestMismatch:
            digest_differs(connection, subnet, change.to_generation)
            if target.replace:
                raise  # all was sent: the digest that is kept here is wrong
            return not await self._may_replace(target)
        except errors.HistoryMismatch:
            # It registered with another past than ours: let it register again.
            connection.link.abort()
            return True
        await self._record(
            Acknowledge(connection.cluster, subnet, accepted_generation=accepted, epoch=connection.epoch)
        )
        target.accepted, target.replace, target.examined, target.as_of = accepted, False, False, next(self._moments)
        return True

    async def _send(self, target: Target, change: Difference) -> int:
        whole = target.replace or change.beyond_horizon
        if not whole and not change.too_long:
            try:
                return await self._calls.send_difference(target.connection, target.subnet, change)
            except errors.MalformedArgument:
                pass  # 500 maps with long identifiers can be more than one value holds
        return await self._send_in_pages(target, None if whole else target.accepted)

    async def _send_in_pages(self, target: Target, accepted: int | None) -> int:
        connection = target.connection
        await connection.transfers.acquire()
        try:
            if not connection.link.connected_now:
                raise LinkLost(f"{connection.name} is not connected any more")
            transfer = await self._reads.transfer(connection.cluster, target.subnet, accepted)
            if transfer is None or transfer.epoch > connection.epoch:
                raise LinkLost("the cluster has another connection, or the subnet is gone")
            return await self._calls.transfer(connection, target.subnet, transfer)
        finally:
            connection.transfers.release()

    async def _may_replace(self, target: Target) -> bool:
        """Whether what the cluster has can be overwritten: nothing of it is of a past that the region lost."""
        if not target.examined:
            if await self._hearing.has_another_past(target.connection, target.subnet):
                return False
            target.examined = True
        target.replace = target.role == "serving"
        return True

    async def _lost_commits(self, target: Target, accepted: int, generation: int) -> bool:
        connection = target.connection
        await self._hearing.begin(ahead(connection, target.subnet, accepted, generation), connection.history)
        self._superseded(connection)
        return True

    # ---- around it ----

    def _superseded(self, connection: Connection) -> None:
        """A later connection speaks for the cluster, here or at another regiond, or it has to register anew."""
        self._log.warn(
            "cluster {cluster} has a later connection than number {epoch}: cutting this one",
            event="cluster.superseded-elsewhere",
            cluster=connection.name,
            epoch=connection.epoch,
        )
        self.left(connection)
        connection.link.abort()

    def _retry(self, target: Target, error: Exception) -> None:
        connection = target.connection
        if self._ready.get(connection.cluster) is not connection:
            return
        delay = target.delay
        target.delay = min(delay * 2, LONGEST_BACK_OFF_SECONDS)
        self._log.warn(
            "delivery to cluster {cluster} failed, again in {delay} s: {reason}",
            event="delivery.failed",
            cluster=connection.name,
            subnet=format_id(Prefix.SUBNET, target.subnet),
            delay=delay,
            reason=f"{type(error).__name__}: {error}"[:500],
        )
        target.again = False
        target.backing_off = True
        self._clock.callLater(delay, self._try_again, target)
        if isinstance(error, errors.ProtocolError):
            # The cluster's own words, for whoever asks why it is not applied.
            said = Acknowledge(connection.cluster, target.subnet, error=str(error)[:500], epoch=connection.epoch)
            in_background(self._record(said), connection)

    def _try_again(self, target: Target) -> None:
        target.backing_off = False
        self._kick_if_current(target)

    def _kick_if_current(self, target: Target) -> None:
        if self._held.by_cluster.get(target.connection.cluster, {}).get(target.subnet) is target:
            self._kick(target)
