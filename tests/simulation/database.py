"""The region's database: tables that survive regiond, and what one life of regiond asks of them, step by step."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from clusterd.protocol.values import InterfaceReport
from regiond import sweeps
from regiond.domain.errors import DomainError
from regiond.domain.identity import Identity, Introduction, Registered
from regiond.domain.ids import NewId
from regiond.domain.mutations import Mutation, Outcome
from regiond.domain.overlay import HOLDING_ROLES
from regiond.domain.plan import plan
from regiond.domain.topology import TopologyPlan
from regiond.storage.batch import facts_request, read_facts
from regiond.storage.batch_changes import changes_document
from regiond.storage.deliveries import DeliveryState, Difference, Transfer
from regiond.storage.errors import DatabaseUnavailable
from tests.fakes import topology
from tests.fakes.storage import FakeStorage
from tests.fakes.tables import Tables
from tests.simulation.steps import Process, Steps

BATCH_ID = "00000000-0000-0000-0000-000000000000"
WRITER = "region writer"
DATABASE = "region database"

T = TypeVar("T")


@dataclass
class Database:
    """What is durable, and whether it answers: never while `down`, else `answered` questions, then `failing` not."""

    tables: Tables
    hold: int
    down: bool = False
    answered: int = 0
    failing: int = 0

    def answers(self) -> bool:
        """Whether it answers the next question."""
        if self.down:
            return False
        if self.answered:
            self.answered -= 1
        elif self.failing:
            self.failing -= 1
            return False
        return True

    def backup(self) -> Tables:
        """A copy of everything as it is now."""
        return self.tables.copy()

    def restore(self, backup: Tables) -> None:
        """As it was then, but for the time. Nothing has it open."""
        for each in fields(Tables):
            if each.name != "now":
                setattr(self.tables, each.name, getattr(backup.copy(), each.name))


class SimulatedStorage(FakeStorage):
    """The dispatcher's seams over the tables: an ask, an answer and the time between them are steps."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        random: Random,
        process: Process,
        new_id: NewId,
        committed: Callable[[Iterable[int]], None],
    ) -> None:
        super().__init__(database.tables)
        self._database = database
        self._steps = steps
        self._random = random
        self._process = process
        self._new_id = new_id
        self._committed = committed
        self._waiting: list[tuple[Mutation, Deferred[Outcome]]] = []

    async def _turn(self) -> None:
        await self._pause()
        if not self._database.answers():
            raise DatabaseUnavailable("the database is away")

    async def _answered(self) -> None:
        await self._pause()

    async def _pause(self) -> None:
        await self._steps.turn(self._steps.own_queue(DATABASE), self._process)

    async def done(self, work: Callable[[], T]) -> T:
        await self._turn()
        answer = work()
        await self._pause()
        return answer

    async def _answer(self, asked: Awaitable[T]) -> T:
        answer = await asked
        await self._pause()
        return answer

    # ---- Mutations ----

    async def submit(self, mutation: Mutation) -> Outcome:
        answer: Deferred[Outcome] = Deferred()
        self._waiting.append((mutation, answer))
        if len(self._waiting) == 1:
            self._steps.add(WRITER, self._commit, self._process)
        return await answer

    def _commit(self) -> None:
        """One batch of some that wait, as the writer makes them."""
        size = self._random.randint(1, len(self._waiting))
        batch, self._waiting = self._waiting[:size], self._waiting[size:]
        if self._waiting:
            self._steps.add(WRITER, self._commit, self._process)
        outcomes: Sequence[Outcome | Exception]
        mapped: frozenset[int] = frozenset()
        if not self._database.answers():
            outcomes = [DatabaseUnavailable("the database is away")] * size
        else:
            mutations = [mutation for mutation, _ in batch]
            facts = read_facts(self.tables.batch_facts(facts_request(mutations)))
            planned = plan(facts, mutations)
            if planned.changes.anything:
                self.tables.batch_write(changes_document(BATCH_ID, planned.changes, facts.subnets))
            outcomes, mapped = planned.outcomes, planned.mapped_subnets

        def tell() -> None:
            if mapped:
                self._committed(mapped)
            for (_, answer), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Outcome):
                    answer.callback(outcome)
                else:
                    answer.errback(Failure(outcome))

        self._steps.add("region writer's answers", tell, self._process)

    # ---- Clusters ----

    async def register(self, identity: Identity, said: Introduction) -> Registered:
        return await self.done(lambda: self._note_registration(identity.name))

    def _note_registration(self, name: str) -> Registered:
        registered = topology.register(self.tables, name, self._new_id)
        unheard = registered.cluster in self.tables.unheard
        return replace(registered, history=self.tables.history, unheard=unheard)

    async def disconnected(self, cluster: int, epoch: int) -> None:
        await self.done(lambda: None)

    async def apply_topology(self, cluster: int, reports: Sequence[InterfaceReport], epoch: int) -> TopologyPlan:
        await self._steps.turn(topologies(cluster, self.tables.epochs[cluster]), self._process)
        return await self.done(
            lambda: topology.apply_topology(self.tables, cluster, reports, self._new_id, self._database.hold, epoch)
        )

    async def drain_absent(self) -> None:
        await self.done(lambda: topology.drain_absent(self.tables))

    async def heartbeat(self) -> None:
        await self.done(lambda: None)

    # ---- Deliveries ----

    async def held_by(self, clusters: Sequence[int]) -> list[DeliveryState]:
        return await super().held_by(clusters)  # pauses before it answers

    async def superseded(self, connections: Mapping[int, int]) -> list[int]:
        return await self._answer(super().superseded(connections))

    async def below(self, generations: Mapping[int, int]) -> dict[int, int]:
        return await self._answer(super().below(generations))

    async def difference(self, cluster: int, subnet: int, accepted: int, at_most: int) -> Difference | None:
        # A difference of two rows is too long now and then, so that pages are sent, too.
        return await self._answer(super().difference(cluster, subnet, accepted, self._random.choice((1, at_most))))

    async def transfer(self, cluster: int, subnet: int, accepted: int | None) -> Transfer | None:
        return await self._answer(super().transfer(cluster, subnet, accepted))

    # ---- Announce ----

    def acknowledged(self, subnets: Iterable[int]) -> None:
        """Nobody waits for it here."""

    def topology_changed(self) -> None:
        """Nobody keeps subnets in memory here."""

    # ---- what the sweeps ask (a Pool) ----

    async def query(self, statement: str, parameters: Sequence[Any], *, retry: bool = False) -> list[tuple[Any, ...]]:
        """What the sweeps ask for: reservations that are due, subnets with some to confirm. Nothing is ever too old."""
        if statement in sweeps._CLEAN:
            return await self.done(list)
        if statement == sweeps._UNCONFIRMED:
            return await self.done(lambda: [(subnet,) for subnet in self.tables.subnets if self._to_confirm(subnet)])
        column, status = {
            sweeps._RESTED: ("free_at", "releasing"),
            sweeps._EXPIRED: ("expires_at", "active"),
        }[statement]

        def due() -> list[tuple[Any, ...]]:
            return [
                (row["id"], row["subnet"], row["address"])
                for row in self.tables.reservations.values()
                if row["status"] == status
                and (status == "active" or row["confirmed_at"] is not None)
                and (status == "active" or not self.tables.subnets[row["subnet"]]["recovering"])
                and row[column] is not None
                and datetime.fromisoformat(row[column]) <= self.tables.now
            ]

        return await self.done(due)

    def _to_confirm(self, subnet: int) -> bool:
        known = self.tables.subnets[subnet]
        holding = [
            row["applied_generation"]
            for (of, _), row in self.tables.deliveries.items()
            if of == subnet and row["role"] in HOLDING_ROLES
        ]
        confirmed = min(holding, default=known["generation"] + 1)
        return not known["recovering"] and any(
            row["release_generation"] is not None and row["release_generation"] <= confirmed
            for (of, _), row in self.tables.reservations.items()
            if of == subnet and row["status"] == "releasing" and row["confirmed_at"] is None
        )

    async def execute(self, statement: str, parameters: Sequence[Any] = (), *, retry: bool = False) -> None:
        """Old answers to idempotency keys: there are none here."""


def topologies(cluster: int, epoch: int) -> str:
    """The queue of what is reported while this is the cluster's latest connection."""
    return f"{DATABASE} and the topology of {cluster} by {epoch}"


def is_refusal(error: object) -> bool:
    """Whether this is an answer that a claimant may get, and no bug."""
    return isinstance(error, DomainError | DatabaseUnavailable)
