"""The storage around the dispatcher, over `Tables`: what it reads and what it writes, and outages of both.

`tests/regiond/storage/test_stories_on_postgres.py` compares the reads with those of the real database.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred

from clusterd.protocol.arguments import HOST_MAPS, IDENTIFIERS
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, InterfaceReport
from regiond.domain.errors import DomainError
from regiond.domain.identity import Identity, Introduction, Registered
from regiond.domain.mutations import Mutation, Outcome, Step
from regiond.domain.topology import TopologyPlan, plan_topology
from regiond.storage.batch import from_signed
from regiond.storage.deliveries import DeliveryState, Difference, Transfer
from regiond.storage.errors import DatabaseUnavailable
from tests.fakes import topology
from tests.fakes.tables import Row, Tables
from tests.fakes.tables_world import commit


@dataclass
class FakeStorage:
    """`Deliveries`, `Mutations`, `Clusters` and `Announce` of the dispatcher in one."""

    tables: Tables
    down: bool = False
    recorded: list[Step] = field(default_factory=list)
    topologies: list[tuple[int, tuple[InterfaceReport, ...]]] = field(default_factory=list)
    ended: list[tuple[int, int]] = field(default_factory=list)
    history: str = "history-1"
    unheard: set[int] = field(default_factory=set)
    announced: list[frozenset[int]] = field(default_factory=list)
    topology_changes: int = 0
    drifts: list[tuple[int, int, int]] = field(default_factory=list)  # cluster, subnet, host maps put right
    _held: list[Deferred[None]] | None = None
    _late: list[Deferred[None]] | None = None

    # ---- a test's handle ----

    def hold(self) -> None:
        """Leave what is asked from now on unanswered until `let_go`."""
        self._held = []

    def let_go(self) -> None:
        held, self._held = self._held or [], None
        for one in held:
            one.callback(None)

    def hold_answers(self) -> None:
        """Let registrations and what is held by whom happen from now on, but not be answered until `answer`."""
        self._late = []

    def answer(self, *, newest_first: bool = False) -> None:
        late, self._late = self._late or [], None
        for one in reversed(late) if newest_first else late:
            one.callback(None)

    async def _answered(self) -> None:
        if self._late is not None:
            late: Deferred[None] = Deferred()
            self._late.append(late)
            await late

    async def _turn(self) -> None:
        if self._held is not None:
            turn: Deferred[None] = Deferred()
            self._held.append(turn)
            await turn
        if self.down:
            raise DatabaseUnavailable("down for a test")

    # ---- Mutations ----

    async def submit(self, mutation: Mutation) -> Outcome:
        await self._turn()
        self.recorded.extend(mutation.steps)
        (outcome,) = commit(self.tables, [mutation])
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    # ---- Clusters ----

    async def register(self, identity: Identity, said: Introduction) -> Registered:
        await self._turn()
        registered = topology.register(self.tables, identity.name, lambda: max(self.tables.clusters) + 1)
        registered = replace(registered, history=self.history, unheard=registered.cluster in self.unheard)
        await self._answered()
        return registered

    async def disconnected(self, cluster: int, epoch: int) -> None:
        await self._turn()
        self.ended.append((cluster, epoch))

    async def apply_topology(self, cluster: int, reports: Sequence[InterfaceReport], epoch: int) -> TopologyPlan:
        await self._turn()
        self.topologies.append((cluster, tuple(reports)))
        return plan_topology(reports, (), (), lambda: 1)  # as of a cluster that was never heard of

    async def drifted(self, cluster: int, subnet: int, count: int, epoch: int) -> None:
        await self._turn()
        self.drifts.append((cluster, subnet, count))

    # ---- Announce ----

    def acknowledged(self, subnets: Iterable[int]) -> None:
        self.announced.append(frozenset(subnets))

    def topology_changed(self) -> None:
        self.topology_changes += 1

    # ---- Deliveries ----

    async def held_by(self, clusters: Sequence[int]) -> list[DeliveryState]:
        await self._turn()
        rows = [
            self._state(row)
            for row in self.tables.deliveries.values()
            if row["cluster"] in clusters and row["role"] != "former"
        ]
        await self._answered()
        return rows

    async def stragglers(self, clusters: Sequence[int]) -> list[DeliveryState]:
        return [
            state
            for state in await self.held_by(clusters)
            if state.role == "draining" or state.accepted_generation != state.generation
        ]

    async def superseded(self, connections: Mapping[int, int]) -> list[int]:
        await self._turn()
        return [cluster for cluster, epoch in connections.items() if self._epoch(cluster) > epoch]

    async def below(self, generations: Mapping[int, int]) -> dict[int, int]:
        await self._turn()
        reached = {subnet: int(self.tables.subnets[subnet]["generation"]) for subnet in generations}
        return {subnet: reached[subnet] for subnet, least in generations.items() if reached[subnet] < least}

    async def difference(self, cluster: int, subnet: int, accepted: int, at_most: int) -> Difference | None:
        await self._turn()
        known = self.tables.subnets.get(subnet)
        if known is None:
            return None
        rows = sorted(self._since(subnet, accepted), key=lambda row: int(row["generation"]))
        too_long, beyond = len(rows) > at_most, accepted < known.get("horizon", 0)
        put = [] if too_long or beyond else [row for row in rows if not row["removed"]]
        removed = [] if too_long or beyond else [row for row in rows if row["removed"]]
        return Difference(
            cidr=known["cidr"],
            from_generation=accepted,
            to_generation=known["generation"],
            digest=from_signed(known["digest"]),
            upserts=[HostMap(_identifier(row), row["address"], row["hostname"]) for row in put],
            removals=[_identifier(row) for row in removed],
            request_ids=[row["request_id"] for row in (*put, *removed)],
            too_long=too_long,
            beyond_horizon=beyond,
            epoch=self._epoch(cluster),
        )

    async def transfer(self, cluster: int, subnet: int, accepted: int | None) -> Transfer | None:
        await self._turn()
        known = self.tables.subnets.get(subnet)
        if known is None:
            return None
        rows = self._since(subnet, accepted or 0)
        put = [HostMap(_identifier(row), row["address"], row["hostname"]) for row in rows if not row["removed"]]
        removed = [_identifier(row) for row in rows if row["removed"] and accepted is not None]
        return Transfer(
            cidr=known["cidr"],
            from_generation=accepted,
            to_generation=known["generation"],
            digest=from_signed(known["digest"]),
            upserts=len(put),
            removals=len(removed),
            upsert_pages=list(HOST_MAPS.packed(put)),
            removal_pages=list(IDENTIFIERS.packed(removed)),
            epoch=self._epoch(cluster),
        )

    def _epoch(self, cluster: int) -> int:
        return self.tables.epochs.get(cluster, 0)

    def _since(self, subnet: int, generation: int) -> list[Row]:
        return [row for row in self._maps(subnet) if row["generation"] > generation]

    def _maps(self, subnet: int) -> list[Row]:
        return [row for row in self.tables.maps.values() if row["subnet"] == subnet]

    def _state(self, row: Row) -> DeliveryState:
        subnet = self.tables.subnets[row["subnet"]]
        return DeliveryState(
            row["cluster"],
            row["subnet"],
            subnet["cidr"],
            row["role"],
            row["accepted_generation"],
            subnet["generation"],
            from_signed(subnet["digest"]),
            subnet.get("recovering", False),
        )


def _identifier(row: Row) -> Identifier:
    return Identifier(IdentifierKind(row["kind"]), bytes.fromhex(row["identifier"]))
