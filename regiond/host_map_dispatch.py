"""Brings every connected cluster to the desired host maps of the subnets it holds.

Per (cluster, subnet) at most one delivery is in flight; changes that come meanwhile are picked up when it ends,
because a delivery reads what is desired when it starts. Nothing here is remembered that the database does not know:
a commit (told at once by the local writer, by doorbell from another regiond), a registration and the sweep all lead
to the same question, "is this cluster where it should be?".
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from clusterd.protocol import errors
from clusterd.protocol.arguments import HELD_SUBNETS, MAX_PAGE_ROWS
from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.values import HeldSubnet, InterfaceReport, RejectedMap
from regiond.cluster_rpc.connections import Connection, Connections
from regiond.cluster_rpc.listeners import StoreOrigin
from regiond.domain.identity import Identity, Introduction, Registered
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.mutations import Acknowledge, Actor, Forgotten, Mutation, Outcome, Step
from regiond.domain.recovery import Past, is_beyond, past_of
from regiond.domain.topology import TopologyPlan
from regiond.host_map_calls import HostMapCalls
from regiond.storage.deliveries import DeliveryState, Difference, Transfer
from regiond.storage.errors import DatabaseUnavailable

FIRST_BACK_OFF_SECONDS = 1.0
LONGEST_BACK_OFF_SECONDS = 60.0
MAX_ROUNDS = 10
MAX_STEPS_PER_RECORD = 500

REGION = Actor(None, "region", is_admin=True)


class Clusters(Protocol):
    """`storage.topology.ClusterStore`, as far as it is needed here."""

    async def register(self, identity: Identity, said: Introduction) -> Registered: ...

    async def disconnected(self, cluster: int, epoch: int) -> None: ...

    async def apply_topology(self, cluster: int, reports: Sequence[InterfaceReport], epoch: int) -> TopologyPlan: ...


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

    async def expects(self, connection: Connection, history: str) -> None: ...

    async def knows_subnet(self, subnet: int) -> bool: ...

    async def hear(self, connection: Connection, subnets: Sequence[int]) -> None: ...

    async def has_another_past(self, connection: Connection, subnet: int) -> bool: ...


class Mutations(Protocol):
    """`storage.writer.Writer`."""

    async def submit(self, mutation: Mutation) -> Outcome: ...


class Announce(Protocol):
    """Tells the other regionds, and whoever waits here, that something was committed."""

    def acknowledged(self, subnets: Iterable[int]) -> None: ...

    def topology_changed(self) -> None: ...


@dataclass(slots=True)
class _Target:
    """One cluster's delivery of one subnet while the cluster is connected.

    `role` is serving or draining, or foreign: the cluster holds a subnet that it never was to have, or not any more.
    `as_of` numbers what is known here: a reading of the database that began before is older news.
    """

    connection: Connection
    subnet: int
    cidr: str | None
    role: str
    accepted: int
    as_of: int
    seen: int = 0  # the highest generation that the cluster has said to have, recorded or not
    in_flight: bool = False
    again: bool = False
    replace: bool = False  # the cluster holds what no difference can build on: send the whole set
    examined: bool = False  # and none of it is of another past than the region's
    backing_off: bool = False
    delay: float = FIRST_BACK_OFF_SECONDS  # after the next failure


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
    """The dispatcher, and at the same time what listens to the clusters (see `cluster_rpc.listeners`)."""

    _log = Logger(namespace="region.dispatch")

    def __init__(
        self,
        clock: Any,
        connections: Connections,
        clusters: Clusters,
        reads: Deliveries,
        writer: Mutations,
        hearing: Hears,
        region: str,
        announce: Announce,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._clusters = clusters
        self._reads = reads
        self._writer = writer
        self._hearing = hearing
        self._region = region
        self._announce = announce
        self._calls = HostMapCalls()
        self._held = _Held()
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
        ahead: dict[int, _Target] = {}
        for targets in self._held.by_cluster.values():
            for target in targets.values():
                if target.seen > (ahead[target.subnet].seen if target.subnet in ahead else 0):
                    ahead[target.subnet] = target
        below = await self._reads.below({subnet: target.seen for subnet, target in ahead.items()})
        for subnet, generation in below.items():
            target = ahead[subnet]
            if self._ready.get(target.connection.cluster) is target.connection:
                await self._lost_commits(target, target.seen, generation)

    # ---- what clusters say (cluster_rpc.listeners) ----

    async def register(self, identity: Identity, said: Introduction) -> Registered:
        return await self._clusters.register(identity, said)

    async def registered(self, connection: Connection, store: StoreOrigin, held: Sequence[HeldSubnet]) -> None:
        """Record what the cluster really has, then hear or deliver what there is to (after it has the answer).

        Raises RegistrationRefused when a recovery has begun by what it says: it is to come again.
        """
        self._leave(connection.cluster)
        past = past_of(self._region, connection.history, store.region, store.history)
        said = {parse_id(Prefix.SUBNET, row.subnet): row for row in held}
        states = await self._reads.held_by([connection.cluster])
        evidence: list[int] = []
        if past is Past.ANOTHER and store.history is not None:
            await self._hearing.expects(connection, store.history)
            evidence = [subnet for subnet, row in said.items() if subnet is not None and row.accepted_generation]
            if len(held) >= HELD_SUBNETS.max_rows:  # there may be more than could be said
                evidence += [state.subnet for state in states if state.subnet not in said]
        if past is not Past.OURS:
            said = {}
        await self._refuse_the_later(connection, states, said)
        steps: list[Step] = []
        for state in states:
            row = said.pop(state.subnet, None)
            if row is not None and self._is_known_past(connection, state, row):
                accepted, applied = row.accepted_generation, row.applied_generation
            else:
                accepted, applied = 0, 0
            said_now = Acknowledge(
                connection.cluster, state.subnet, accepted, applied, reset=True, epoch=connection.epoch
            )
            steps.append(said_now)
        for start in range(0, len(steps), MAX_STEPS_PER_RECORD):
            await self._record(*steps[start : start + MAX_STEPS_PER_RECORD])
        foreign = [subnet for subnet in said if subnet is not None]
        self._clock.callLater(0, self._begin, connection, evidence, foreign)

    async def _refuse_the_later(
        self, connection: Connection, states: Sequence[DeliveryState], said: Mapping[int | None, HeldSubnet]
    ) -> None:
        """A cluster of our own history that knows more than the database: the database has lost commits."""
        known = {state.subnet: state for state in states}
        for subnet, row in said.items():
            if subnet is None:
                continue
            state = known.get(subnet)
            if state is None and not await self._hearing.knows_subnet(subnet):
                reason = f"cluster {connection.name} has host maps of {row.subnet}, which the database does not know"
            elif state is not None and is_beyond(row, state.generation):
                self._tell_ahead(connection, subnet, row.accepted_generation, state.generation)
                reason = _ahead(connection, row.subnet, row.accepted_generation, state.generation)
            else:
                continue
            await self._hearing.begin(reason, connection.history)
            raise errors.RegistrationRefused(f"the region recovers from a loss of commits: come again ({reason})")

    def _is_known_past(self, connection: Connection, state: DeliveryState, row: HeldSubnet) -> bool:
        """Whether a difference can build on what the cluster holds: at the desired generation the digests compare."""
        if row.accepted_generation != state.generation or row.digest == state.digest:
            return True
        self._tell_digest_differs(connection, state.subnet, row.accepted_generation)
        return False

    def _begin(self, connection: Connection, evidence: Sequence[int], foreign: Sequence[int]) -> None:
        if self._connections.get(connection.cluster) is connection:
            self._run(self._welcome(connection, evidence, foreign), connection)

    async def _welcome(self, connection: Connection, evidence: Sequence[int], foreign: Sequence[int]) -> None:
        """Hear what the cluster has of another past; only then give it anything."""
        if evidence or connection.unheard:
            await self._hearing.hear(connection, evidence)
        if self._connections.get(connection.cluster) is connection:
            self._ready[connection.cluster] = connection
            await self._adopt_all(connection, foreign)

    async def _adopt_all(self, connection: Connection, foreign: Sequence[int] = ()) -> None:
        asked = next(self._moments)
        for state in await self._reads.held_by([connection.cluster]):
            self._adopt(state, asked)
        if self._ready.get(connection.cluster) is connection:
            for subnet in foreign:
                # It would go on serving these for ever.
                if subnet not in self._held.by_cluster.get(connection.cluster, {}):
                    target = _Target(connection, subnet, None, "foreign", 0, asked)
                    self._held.put(target)
                    self._kick(target)

    async def disconnected(self, connection: Connection) -> None:
        if self._ready.get(connection.cluster) is connection:
            self._leave(connection.cluster)
        await self._clusters.disconnected(connection.cluster, connection.epoch)

    def _leave(self, cluster: int) -> None:
        self._ready.pop(cluster, None)
        self._held.drop_cluster(cluster)

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
            target = _Target(connection, state.subnet, state.cidr, state.role, state.accepted_generation, asked)
            self._held.put(target)
        elif asked < target.as_of:
            return
        elif not target.in_flight:
            target.accepted = state.accepted_generation
        target.seen = max(target.seen, target.accepted)
        target.cidr, target.role, target.as_of = state.cidr, state.role, asked
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

    async def _forget(self, target: _Target) -> bool:
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

    async def _is_to_forget(self, target: _Target) -> bool:
        """Look once more: a subnet that is served again meanwhile must not lose its host maps for a moment."""
        asked = next(self._moments)
        for state in await self._reads.held_by([target.connection.cluster]):
            if state.subnet == target.subnet and state.role == "serving":
                target.role, target.as_of = "serving", asked
                return False
        return True

    async def _bring_up_to_date(self, target: _Target) -> bool:
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
            self._tell_digest_differs(connection, subnet, change.to_generation)
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

    async def _send(self, target: _Target, change: Difference) -> int:
        whole = target.replace or change.beyond_horizon
        if not whole and not change.too_long:
            try:
                return await self._calls.send_difference(target.connection, target.subnet, change)
            except errors.MalformedArgument:
                pass  # 500 maps with long identifiers can be more than one value holds
        cluster, accepted = target.connection.cluster, None if whole else target.accepted
        transfer = await self._reads.transfer(cluster, target.subnet, accepted)
        if transfer is None or transfer.epoch > target.connection.epoch:
            raise LinkLost("the cluster has another connection, or the subnet is gone")
        return await self._calls.transfer(target.connection, target.subnet, transfer)

    async def _may_replace(self, target: _Target) -> bool:
        """Whether what the cluster has can be overwritten: nothing of it is of a past that the region lost."""
        if not target.examined:
            if await self._hearing.has_another_past(target.connection, target.subnet):
                return False
            target.examined = True
        target.replace = target.role == "serving"
        return True

    async def _lost_commits(self, target: _Target, accepted: int, generation: int) -> bool:
        connection = target.connection
        self._tell_ahead(connection, target.subnet, accepted, generation)
        name = format_id(Prefix.SUBNET, target.subnet)
        await self._hearing.begin(_ahead(connection, name, accepted, generation), connection.history)
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
        if self._ready.get(connection.cluster) is connection:
            self._leave(connection.cluster)
        connection.link.abort()

    def _tell_ahead(self, connection: Connection, subnet: int, accepted: int, generation: int) -> None:
        self._log.warn(
            "cluster {cluster} is ahead of the region on {subnet}: {accepted} over {generation}",
            event="delivery.ahead",
            cluster=connection.name,
            subnet=format_id(Prefix.SUBNET, subnet),
            accepted=accepted,
            generation=generation,
        )

    def _tell_digest_differs(self, connection: Connection, subnet: int, generation: int) -> None:
        self._log.warn(
            "cluster {cluster} has other host maps of {subnet} than the region at generation {generation}",
            event="delivery.digest-differs",
            cluster=connection.name,
            subnet=format_id(Prefix.SUBNET, subnet),
            generation=generation,
        )

    async def _record(self, *steps: Step) -> None:
        await self._writer.submit(Mutation(REGION, steps, request_id="dispatch"))
        self._announce.acknowledged({step.subnet for step in steps if isinstance(step, Acknowledge | Forgotten)})

    def _retry(self, target: _Target, error: Exception) -> None:
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
            self._run(self._record(said), connection)

    def _try_again(self, target: _Target) -> None:
        target.backing_off = False
        self._kick_if_current(target)

    def _kick_if_current(self, target: _Target) -> None:
        if self._held.by_cluster.get(target.connection.cluster, {}).get(target.subnet) is target:
            self._kick(target)

    def _run(self, work: Any, connection: Connection) -> None:
        def failed(failure: Failure) -> None:
            # Which the sweep makes up for, and the next registration.
            if not failure.check(DatabaseUnavailable, LinkLost):
                self._log.failure(
                    "delivery to cluster {cluster} failed", failure, event="delivery.bug", cluster=connection.name
                )

        Deferred.fromCoroutine(work).addErrback(failed)


def _ahead(connection: Connection, subnet: str, accepted: int, generation: int) -> str:
    return f"cluster {connection.name} is at generation {accepted} of {subnet}, the database at {generation}"
