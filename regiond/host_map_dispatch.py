"""Brings every connected cluster to the desired host maps of the subnets it holds.

Per (cluster, subnet) at most one delivery is in flight; changes that come meanwhile are picked up when it ends,
because a delivery reads what is desired when it starts. Nothing here is remembered that the database does not know:
a commit (told at once by the local writer, by doorbell from another regiond), a registration and the sweep all lead
to the same question, "is this cluster where it should be?".
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.protocols import amp

from clusterd.protocol import commands, errors
from clusterd.protocol.arguments import HOST_MAPS, IDENTIFIERS, MAX_PAGE_ROWS
from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.values import HeldSubnet, InterfaceReport, RejectedMap
from regiond.cluster_rpc import Connection, Connections
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.mutations import Acknowledge, Actor, Forgotten, Mutation, Step
from regiond.storage.deliveries import DeliveryReads, DeliveryState, Difference
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.topology import ClusterStore, Registered
from regiond.storage.writer import Writer

FIRST_BACK_OFF_SECONDS = 1.0
LONGEST_BACK_OFF_SECONDS = 60.0
TRANSFER_DEADLINE_SECONDS = 60.0
MAX_ROUNDS = 10

REGION = Actor(None, "region", is_admin=True)


class Announce(Protocol):
    """Tells the other regionds, and whoever waits here, that something was committed."""

    def acknowledged(self, subnets: Iterable[int]) -> None: ...

    def topology_changed(self) -> None: ...


@dataclass(slots=True)
class _Target:
    """One cluster's delivery of one subnet while the cluster is connected."""

    connection: Connection
    subnet: int
    role: str
    accepted: int
    in_flight: bool = False
    again: bool = False
    replace: bool = False  # the cluster holds what no difference can build on: send the whole set
    backing_off: bool = False


@dataclass(slots=True)
class _Held:
    """The targets of the connected clusters, by cluster and by subnet."""

    by_cluster: dict[int, dict[int, _Target]] = field(default_factory=dict)
    by_subnet: dict[int, dict[int, _Target]] = field(default_factory=lambda: defaultdict(dict))

    def put(self, target: _Target) -> None:
        self.by_cluster.setdefault(target.connection.cluster, {})[target.subnet] = target
        self.by_subnet[target.subnet][target.connection.cluster] = target

    def drop_cluster(self, cluster: int) -> None:
        for subnet in self.by_cluster.pop(cluster, {}):
            self.by_subnet[subnet].pop(cluster, None)

    def drop(self, target: _Target) -> None:
        self.by_cluster.get(target.connection.cluster, {}).pop(target.subnet, None)
        self.by_subnet[target.subnet].pop(target.connection.cluster, None)


class HostMapDispatch:
    """The dispatcher, and at the same time what listens to the clusters (see `cluster_rpc.Listening`)."""

    _log = Logger(namespace="region.dispatch")

    def __init__(
        self,
        clock: Any,
        connections: Connections,
        clusters: ClusterStore,
        reads: DeliveryReads,
        writer: Writer,
        history: str,
        announce: Announce,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._clusters = clusters
        self._reads = reads
        self._writer = writer
        self._history = history
        self._announce = announce
        self._held = _Held()
        self._back_off: dict[int, float] = {}

    # ---- what others tell ----

    def committed(self, subnets: Iterable[int]) -> None:
        """The desired host maps of these subnets changed."""
        for subnet in subnets:
            for target in list(self._held.by_subnet.get(subnet, {}).values()):
                self._kick(target)

    async def sweep(self) -> None:
        """Find the connected clusters that are not where they should be, and bring them there."""
        for state in await self._reads.stragglers(self._connections.clusters()):
            self._adopt(state)

    # ---- what clusters say (cluster_rpc.Listening) ----

    async def register(self, name: str, hostname: str, backend: str, software_version: str) -> Registered:
        return await self._clusters.register(name, hostname, backend, software_version)

    async def registered(self, connection: Connection, history: str | None, held: Sequence[HeldSubnet]) -> None:
        """Record what the cluster really has, then deliver what it lacks (after it has the answer)."""
        said = {} if history != self._history else {parse_id(Prefix.SUBNET, row.subnet): row for row in held}
        steps: list[Step] = []
        for state in await self._reads.held_by([connection.cluster]):
            row = said.pop(state.subnet, None)
            if row is not None and await self._is_known_past(connection, state, row):
                accepted, applied = row.accepted_generation, row.applied_generation
            else:
                accepted, applied = 0, 0
            steps.append(Acknowledge(connection.cluster, state.subnet, accepted, applied, reset=True))
        for start in range(0, len(steps), 500):
            await self._record(*steps[start : start + 500])
        self._held.drop_cluster(connection.cluster)
        self._back_off.pop(connection.cluster, None)
        forgotten = [number for number in said if number is not None]
        self._clock.callLater(0, self._begin, connection, forgotten)

    async def _is_known_past(self, connection: Connection, state: DeliveryState, row: HeldSubnet) -> bool:
        """Whether a difference can build on what the cluster holds: at the desired generation the digests compare."""
        if row.accepted_generation != state.generation:
            return True
        desired = await self._reads.digest(state.subnet)
        if desired is None or desired[0] != row.accepted_generation or desired[1] == row.digest:
            return True
        self._log.warn(
            "cluster {cluster} has other host maps of {subnet} at generation {generation}: sending all",
            event="delivery.digest-differs",
            cluster=connection.name,
            subnet=format_id(Prefix.SUBNET, state.subnet),
            generation=row.accepted_generation,
        )
        return False

    def _begin(self, connection: Connection, foreign: Sequence[int]) -> None:
        async def begin() -> None:
            for state in await self._reads.held_by([connection.cluster]):
                self._adopt(state)
            for subnet in foreign:
                # Maps of a subnet that is not this cluster's any more: it would go on serving them.
                if subnet not in self._held.by_cluster.get(connection.cluster, {}):
                    await self._forget(connection, subnet)

        self._run(begin(), connection)

    async def disconnected(self, connection: Connection) -> None:
        if self._connections.get(connection.cluster) is None:
            self._held.drop_cluster(connection.cluster)
        await self._clusters.disconnected(Registered(connection.cluster, connection.epoch))

    async def topology(self, connection: Connection, reports: Sequence[InterfaceReport]) -> None:
        await self._clusters.apply_topology(connection.cluster, reports)
        self._announce.topology_changed()
        for state in await self._reads.held_by([connection.cluster]):
            self._adopt(state)

    async def host_map_state(
        self, connection: Connection, subnet: int, applied: int, rejected: Sequence[RejectedMap], error: str | None
    ) -> None:
        await self._record(
            Acknowledge(connection.cluster, subnet, applied_generation=applied, error=error, rejected=tuple(rejected))
        )

    # ---- delivering ----

    def _adopt(self, state: DeliveryState) -> None:
        """Make or refresh the target of a delivery whose cluster is connected here, and look at it."""
        connection = self._connections.get(state.cluster)
        if connection is None:
            return
        target = self._held.by_cluster.get(state.cluster, {}).get(state.subnet)
        if target is None or target.connection is not connection:
            target = _Target(connection, state.subnet, state.role, state.accepted_generation)
            self._held.put(target)
        target.role = state.role
        if state.role == "draining" or state.accepted_generation != state.generation:
            self._kick(target)

    def _kick(self, target: _Target) -> None:
        if target.in_flight:
            target.again = True
        elif not target.backing_off:
            target.in_flight = True
            self._run(self._deliver(target), target.connection)

    async def _deliver(self, target: _Target) -> None:
        try:
            for _ in range(MAX_ROUNDS):
                target.again = False
                if target.role == "draining":
                    await self._forget(target.connection, target.subnet)
                    await self._record(Forgotten(target.connection.cluster, target.subnet))
                    self._held.drop(target)
                    return
                settled = await self._bring_up_to_date(target)
                if settled and not target.again:
                    return
            if not settled:
                raise errors.DigestMismatch(f"not settled after {MAX_ROUNDS} attempts")
        except (LinkLost, CallTimedOut, amp.RemoteAmpError, DatabaseUnavailable, errors.ProtocolError) as error:
            self._retry(target, error)
        finally:
            target.in_flight = False
        if target.again:
            self._kick(target)

    async def _bring_up_to_date(self, target: _Target) -> bool:
        """One delivery of what is missing; whether the cluster is now where it was desired when this began."""
        change = await self._reads.difference(target.subnet, target.accepted, MAX_PAGE_ROWS)
        if change is None or change.to_generation == target.accepted:
            return True
        if change.to_generation < target.accepted:
            self._log.warn(
                "cluster {cluster} is ahead of the region on {subnet}: {accepted} over {generation}",
                event="delivery.ahead",
                cluster=target.connection.name,
                subnet=format_id(Prefix.SUBNET, target.subnet),
                accepted=target.accepted,
                generation=change.to_generation,
            )
            await self._record(
                Acknowledge(
                    target.connection.cluster,
                    target.subnet,
                    error=f"the cluster is at generation {target.accepted}, the region at {change.to_generation}: "
                    "the region has lost commits",
                )
            )
            return True
        try:
            if target.replace or change.too_long:
                snapshot = await self._reads.snapshot(target.subnet)
                if snapshot is None:
                    return True
                accepted = await self._transfer(target, snapshot)
            else:
                accepted = await self._apply(target, change)
        except errors.GenerationMismatch as mismatch:
            if change.from_generation == 0:
                # It holds something after all, which at its registration was not what this region sent.
                target.replace = True
                return False
            target.accepted = mismatch.accepted
            await self._record(
                Acknowledge(target.connection.cluster, target.subnet, accepted_generation=target.accepted, reset=True)
            )
            return False
        except errors.DigestMismatch:
            self._log.warn(
                "cluster {cluster} would have other host maps of {subnet} at generation {generation}: sending all",
                event="delivery.digest-differs",
                cluster=target.connection.name,
                subnet=format_id(Prefix.SUBNET, target.subnet),
                generation=change.to_generation,
            )
            target.replace = True
            return False
        except errors.HistoryMismatch:
            # It registered with another past than ours: let it register again.
            target.connection.link.abort()
            return True
        target.accepted = accepted
        target.replace = False
        self._back_off.pop(target.connection.cluster, None)
        await self._record(
            Acknowledge(target.connection.cluster, target.subnet, accepted_generation=accepted, reset=False)
        )
        return True

    async def _apply(self, target: _Target, change: Difference) -> int:
        try:
            answer = await target.connection.link.call(
                commands.ApplyHostMaps,
                history=self._history,
                subnet=format_id(Prefix.SUBNET, target.subnet),
                cidr=change.cidr,
                from_generation=change.from_generation,
                to_generation=change.to_generation,
                digest=change.digest,
                upserts=change.upserts,
                removals=change.removals,
                request_ids=change.request_ids,
            )
        except errors.MalformedArgument:
            # 500 maps with long identifiers can be more than one value holds.
            return await self._transfer(target, change, from_generation=change.from_generation)
        self._log.info(
            "cluster {cluster} accepted {upserts} host maps and {removals} removals of {cidr}",
            event="delivery.accepted",
            cluster=target.connection.name,
            subnet=format_id(Prefix.SUBNET, target.subnet),
            cidr=change.cidr,
            generation=change.to_generation,
            upserts=len(change.upserts),
            removals=len(change.removals),
            request_ids=sorted(set(change.request_ids)),
        )
        return int(answer["accepted_generation"])

    async def _transfer(self, target: _Target, change: Difference, from_generation: int | None = None) -> int:
        link, subnet = target.connection.link, format_id(Prefix.SUBNET, target.subnet)
        await link.call(
            commands.BeginTransfer,
            history=self._history,
            subnet=subnet,
            cidr=change.cidr,
            from_generation=from_generation,
            to_generation=change.to_generation,
            digest=change.digest,
            count=len(change.upserts) + len(change.removals),
        )
        for upserts in HOST_MAPS.pages_of(change.upserts):
            await link.call(
                commands.TransferPage, subnet=subnet, to_generation=change.to_generation, upserts=upserts, removals=()
            )
        for removals in IDENTIFIERS.pages_of(change.removals):
            if removals:
                await link.call(
                    commands.TransferPage,
                    subnet=subnet,
                    to_generation=change.to_generation,
                    upserts=(),
                    removals=removals,
                )
        answer = await link.call(
            commands.CommitTransfer,
            deadline=TRANSFER_DEADLINE_SECONDS,
            subnet=subnet,
            to_generation=change.to_generation,
        )
        self._log.info(
            "cluster {cluster} accepted all {upserts} host maps of {cidr}",
            event="delivery.transferred",
            cluster=target.connection.name,
            subnet=subnet,
            cidr=change.cidr,
            generation=change.to_generation,
            upserts=len(change.upserts),
            removals=len(change.removals),
            snapshot=from_generation is None,
        )
        return int(answer["accepted_generation"])

    async def _forget(self, connection: Connection, subnet: int) -> None:
        name = format_id(Prefix.SUBNET, subnet)
        await connection.link.call(
            commands.ForgetSubnet, deadline=TRANSFER_DEADLINE_SECONDS, history=self._history, subnet=name
        )
        self._log.info(
            "cluster {cluster} forgot {subnet}", event="delivery.forgotten", cluster=connection.name, subnet=name
        )

    # ---- around it ----

    async def _record(self, *steps: Step) -> None:
        await self._writer.submit(Mutation(REGION, steps, request_id="dispatch"))
        self._announce.acknowledged({step.subnet for step in steps if isinstance(step, Acknowledge | Forgotten)})

    def _retry(self, target: _Target, error: Exception) -> None:
        cluster = target.connection.cluster
        if self._connections.get(cluster) is not target.connection:
            return
        delay = self._back_off.get(cluster, FIRST_BACK_OFF_SECONDS)
        self._back_off[cluster] = min(delay * 2, LONGEST_BACK_OFF_SECONDS)
        self._log.warn(
            "delivery to cluster {cluster} failed, again in {delay} s: {reason}",
            event="delivery.failed",
            cluster=target.connection.name,
            subnet=format_id(Prefix.SUBNET, target.subnet),
            delay=delay,
            reason=f"{type(error).__name__}: {error}"[:500],
        )
        target.again = False
        target.backing_off = True
        self._clock.callLater(delay, self._kick_if_current, target)

    def _kick_if_current(self, target: _Target) -> None:
        target.backing_off = False
        if self._held.by_cluster.get(target.connection.cluster, {}).get(target.subnet) is target:
            self._kick(target)

    def _run(self, work: Any, connection: Connection) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: (
                self._log.failure(
                    "delivery to cluster {cluster} failed",
                    failure,
                    event="delivery.bug",
                    cluster=connection.name,
                )
                if not failure.check(LinkLost, DatabaseUnavailable)
                else None
            )
        )
