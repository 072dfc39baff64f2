"""What a cluster comes with: whether it is a past that the database knows, and what a difference can build on.

What it has of another past is heard before anything is delivered to it; see Note [Recovery] in `domain/recovery.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from clusterd.protocol import errors
from clusterd.protocol.arguments import HELD_SUBNETS
from clusterd.protocol.values import HeldSubnet
from regiond.cluster_rpc.connections import Connection, Connections
from regiond.cluster_rpc.listeners import StoreOrigin
from regiond.domain.identity import Identity, Introduction, Registered
from regiond.domain.ids import Prefix, parse_id
from regiond.domain.mutations import Acknowledge, Step
from regiond.domain.recovery import Past, is_beyond, past_of
from regiond.host_map_dispatch.background import in_background
from regiond.host_map_dispatch.record import Record
from regiond.host_map_dispatch.remarks import ahead, digest_differs
from regiond.storage.deliveries import DeliveryState
from regiond.storage.errors import DatabaseUnavailable

MAX_STEPS_PER_RECORD = 500


class Clusters(Protocol):
    """`storage.topology.ClusterStore`, as far as it is needed here."""

    async def register(self, identity: Identity, said: Introduction) -> Registered: ...

    async def disconnected(self, cluster: int, epoch: int) -> None: ...


class Deliveries(Protocol):
    """`storage.deliveries.DeliveryReads`, as far as it is needed here."""

    async def held_by(self, clusters: Sequence[int]) -> list[DeliveryState]: ...


class Hears(Protocol):
    """`hearing.Hearing`, as far as it is needed here."""

    async def begin(self, reason: str, of_history: str | None) -> None: ...

    async def expects(self, connection: Connection, history: str) -> None: ...

    async def generation(self, subnet: int) -> int | None: ...

    async def hear(self, connection: Connection, subnets: Sequence[int]) -> None: ...


class Delivers(Protocol):
    """`dispatch.HostMapDispatch`, as far as it is needed here."""

    async def welcome(self, connection: Connection, foreign: Sequence[int]) -> None: ...

    def leave(self, cluster: int) -> None: ...

    def left(self, connection: Connection) -> None: ...


class ClusterArrivals:
    """See `cluster_rpc.listeners.Arrivals`. `region` is its id, which a cluster's store is stamped with."""

    def __init__(
        self,
        clock: Any,
        connections: Connections,
        clusters: Clusters,
        reads: Deliveries,
        record: Record,
        hearing: Hears,
        region: str,
        dispatch: Delivers,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._clusters = clusters
        self._reads = reads
        self._record = record
        self._hearing = hearing
        self._region = region
        self._dispatch = dispatch

    async def register(self, identity: Identity, said: Introduction) -> Registered:
        return await self._clusters.register(identity, said)

    async def disconnected(self, connection: Connection) -> None:
        self._dispatch.left(connection)
        await self._clusters.disconnected(connection.cluster, connection.epoch)

    async def registered(self, connection: Connection, store: StoreOrigin, held: Sequence[HeldSubnet]) -> None:
        """Record what the cluster really has, then hear or deliver what there is to (after it has the answer).

        Raises RegistrationRefused when a recovery has begun by what it says: it is to come again.
        """
        self._dispatch.leave(connection.cluster)
        past = past_of(self._region, connection.history, store.region, store.history)
        said = {parse_id(Prefix.SUBNET, row.subnet): row for row in held}
        states = await self._reads.held_by([connection.cluster])
        evidence: list[int] | None = [] if connection.unheard else None
        if past is Past.ANOTHER and store.history is not None:  # it counts as unheard from now on, whatever it has
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
            generation = state.generation if state is not None else await self._hearing.generation(subnet)
            if generation is None:
                reason = f"cluster {connection.name} has host maps of {row.subnet}, which the database does not know"
            elif is_beyond(row, generation):
                reason = ahead(connection, subnet, row.accepted_generation, generation)
            else:
                continue
            await self._hearing.begin(reason, connection.history)
            raise errors.RegistrationRefused(f"the region recovers from a loss of commits: come again ({reason})")

    def _is_known_past(self, connection: Connection, state: DeliveryState, row: HeldSubnet) -> bool:
        """Whether a difference can build on what the cluster holds: at the desired generation the digests compare."""
        if row.accepted_generation != state.generation or row.digest == state.digest:
            return True
        digest_differs(connection, state.subnet, row.accepted_generation)
        return False

    def _begin(self, connection: Connection, evidence: Sequence[int] | None, foreign: Sequence[int]) -> None:
        if self._connections.get(connection.cluster) is connection:
            in_background(self._welcome(connection, evidence, foreign), connection)

    async def _welcome(self, connection: Connection, evidence: Sequence[int] | None, foreign: Sequence[int]) -> None:
        """Hear what the cluster has of another past, unless nobody waits for it; only then give it anything."""
        if evidence is not None:
            try:
                await self._hearing.hear(connection, evidence)
            except DatabaseUnavailable:
                connection.link.abort()  # no sweep asks it again, but it comes again
                raise
        if self._connections.get(connection.cluster) is connection:
            await self._dispatch.welcome(connection, foreign)
