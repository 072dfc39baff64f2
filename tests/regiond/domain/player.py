"""Plays a story on a world, and after each of its batches compares the world with everything that has to be true."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.errors import DomainError
from regiond.domain.mutations import Mutation, Outcome, Release
from regiond.storage.batch import from_signed
from tests.regiond.domain.model import Model, ModelSubnet, Served, Shown, shown
from tests.regiond.domain.stories import (
    HOLD_PASSES_SECONDS,
    Batch,
    Delivered,
    Event,
    Ids,
    RoleChanges,
    Rows,
    SimulatedCluster,
    Speaker,
    Story,
    World,
)


@dataclass
class Player:
    """`seconds` is how much time has passed in the story; `served_until` when a server last had an address."""

    world: World
    story: Story
    model: Model
    clusters: dict[tuple[int, int], SimulatedCluster]
    speaker: Speaker
    before: Rows
    seconds: float = 0.0
    served_until: dict[tuple[int, str], float] = field(default_factory=dict)
    forced: set[tuple[int, str]] = field(default_factory=set)

    @classmethod
    async def on(cls, world: World, story: Story, first_id: int) -> "Player":
        model = Model(
            {
                subnet: ModelSubnet(
                    ground,
                    story.hold,
                    ground.claimable(),
                    served={cluster: Served("serving") for cluster in world.clusters} if served else {},
                )
                for subnet, ground, served in zip(world.subnets, story.grounds, story.served, strict=True)
            }
        )
        clusters = {(cluster, subnet): SimulatedCluster() for cluster in range(2) for subnet in range(2)}
        speaker = Speaker(world, story, Ids(first_id), clusters)
        return cls(world, story, model, clusters, speaker, await world.rows())

    async def play(self) -> list[list[Shown | type[DomainError] | object]]:
        """All outcomes, for a comparison of worlds."""
        self._check_rows(self.before)
        said: list[list[Shown | type[DomainError] | object]] = []
        for event in self.story.events:
            said.append([shown(outcome) for outcome in await self.event(event)])
        return said

    async def event(self, event: Event) -> Sequence[Outcome | DomainError]:
        if isinstance(event, Batch):
            return await self._batch([self.speaker.mutation(member) for member in event.members])
        if isinstance(event, Delivered):
            self._deliver(event)
        elif isinstance(event, RoleChanges):
            await self._change_role(event)
        else:
            self.seconds += HOLD_PASSES_SECONDS
            self.model.sooner(HOLD_PASSES_SECONDS)
            await self.world.sooner(HOLD_PASSES_SECONDS)
        return []

    # ---- what happens beside batches ----

    def _deliver(self, event: Delivered) -> None:
        subnet = self.world.subnets[event.subnet]
        served = self.model.subnets[subnet].served.get(self.world.clusters[event.cluster])
        if served is None or served.role != "serving":
            return
        cluster = self.clusters[event.cluster, event.subnet]
        cluster.accepted, _ = self.before.subnets[subnet]
        cluster.stored = {
            _identifier(kind, value): row["address"]
            for (of, kind, value), row in self.before.maps.items()
            if of == subnet and not row["removed"]
        }
        if event.applied:
            for address in set(cluster.server.values()) - set(cluster.stored.values()):
                self.served_until[subnet, address] = self.seconds
            cluster.applied, cluster.server = cluster.accepted, dict(cluster.stored)
            cluster.made_of = {
                _identifier(kind, value): row["reservation"]
                for (of, kind, value), row in self.before.maps.items()
                if of == subnet and not row["removed"]
            }

    async def _change_role(self, event: RoleChanges) -> None:
        subnet, cluster = self.world.subnets[event.subnet], self.world.clusters[event.cluster]
        served = self.model.subnets[subnet].served
        role = event.role
        if role == "draining" and (cluster not in served or served[cluster].role != "serving"):
            return
        if cluster in served:
            served[cluster].role = role
        else:
            served[cluster] = Served(role)
        await self.world.set_role(subnet, cluster, role)

    # ---- batches ----

    async def _batch(self, mutations: Sequence[Mutation]) -> Sequence[Outcome | DomainError]:
        for (index, of), cluster in self.clusters.items():
            for address in cluster.server.values():
                assert (self.world.subnets[of], address) in self.before.reservations or (
                    self.world.subnets[of],
                    address,
                ) in self.forced, f"cluster {index} serves {address}, which is nobody's"
        expected = self.model.batch(mutations)
        outcomes = await self.world.batch(mutations)
        assert [shown(outcome) for outcome in outcomes] == expected
        self.speaker.remember(outcomes)
        self._note_forced(mutations, outcomes)
        rows = await self.world.rows()
        self._check_rows(rows)
        self._check_generations(rows)
        self._check_nobody_is_served_anothers_address(rows)
        self._check_rest(rows)
        self.before = rows
        await self._check_replays(mutations, outcomes)
        return outcomes

    def _note_forced(self, mutations: Sequence[Mutation], outcomes: Sequence[Outcome | DomainError]) -> None:
        for mutation, outcome in zip(mutations, outcomes, strict=True):
            if isinstance(outcome, Outcome):
                for step in mutation.steps:
                    if isinstance(step, Release) and step.force:
                        self.forced.add((step.subnet, step.address))

    def _check_rows(self, rows: Rows) -> None:
        for subnet, model in self.model.subnets.items():
            assert rows.free[subnet] == _ranges(model.free), "free ranges tile what is not taken, and no more"
            text = model.ground.text
            stored = {a: r for (of, a), r in rows.reservations.items() if of == subnet}
            assert stored.keys() == {text(address) for address in model.held}
            for address, held in model.held.items():
                row = stored[text(address)]
                assert row["id"] == held.claim.reservation
                assert row["status"] == ("releasing" if held.releasing else "active")
                assert row["release_generation"] == (held.removed_at if held.claim.identifiers else None)
                assert row["confirmed_at"] == (held.rest is not None)
            maps = {_identifier(kind, value): r for (of, kind, value), r in rows.maps.items() if of == subnet}
            desired = {i: r for i, r in maps.items() if not r["removed"]}
            assert {i: r["address"] for i, r in desired.items()} == {i: text(a) for i, a in model.maps.items()}
            generation, digest = rows.subnets[subnet]
            assert generation == model.generation
            assert from_signed(digest) == digest_of(HostMap(i, r["address"], r["hostname"]) for i, r in desired.items())
            deliveries = {cluster: d for (of, cluster), d in rows.deliveries.items() if of == subnet}
            assert {cluster: d[:3] for cluster, d in deliveries.items()} == {
                cluster: (served.role, served.accepted, served.applied) for cluster, served in model.served.items()
            }
        assert len({row["id"] for row in rows.reservations.values()}) == len(rows.reservations)

    def _check_generations(self, rows: Rows) -> None:
        """A generation rises by one when maps change, and what changed carries it: a difference misses nothing."""
        for subnet, (generation, _) in rows.subnets.items():
            before, _ = self.before.subnets[subnet]
            changed = [r for key, r in rows.maps.items() if key[0] == subnet and self.before.maps.get(key) != r]
            assert generation == before + (1 if changed else 0)
            assert all(row["generation"] == generation for row in changed)
        assert self.before.maps.keys() <= rows.maps.keys(), "a removed host map stays as a tombstone"

    def _check_nobody_is_served_anothers_address(self, rows: Rows) -> None:
        for (_, of), cluster in self.clusters.items():
            subnet = self.world.subnets[of]
            for identifier, address in cluster.server.items():
                if (subnet, address) not in self.forced:
                    row = rows.reservations.get((subnet, address))
                    assert row is not None, f"{address} is free and still served to {identifier}"
                    # a device whose NIC was replaced keeps its address, while the old one may still be served
                    own = _has(row, identifier) or row["id"] == cluster.made_of[identifier]
                    assert own, f"{address} is another's and still served to {identifier}"

    def _check_rest(self, rows: Rows) -> None:
        """An address that had a host map changes hands only after its rest, except back to the same identifiers. That
        of a device with another NIC does not change hands.
        """
        for (subnet, address), row in self.before.reservations.items():
            now = rows.reservations.get((subnet, address))
            is_kept = now is not None and (now["id"] == row["id"] or all(_has(now, i) for i in _identifiers(row)))
            if row["map_generation"] is not None and not is_kept and (subnet, address) not in self.forced:
                until = self.served_until.get((subnet, address), float("-inf")) + self.story.hold
                assert self.seconds >= until, f"{address} was free {until - self.seconds} s too early"
            if now is None or now["id"] != row["id"]:
                self.served_until.pop((subnet, address), None)

    async def _check_replays(self, mutations: Sequence[Mutation], outcomes: Sequence[Outcome | DomainError]) -> None:
        first = [
            (mutation, outcome)
            for mutation, outcome in zip(mutations, outcomes, strict=True)
            if mutation.idempotency is not None and isinstance(outcome, Outcome)
        ]
        if not first:
            return
        again = await self.world.batch([mutation for mutation, _ in first])
        assert again == [replace(outcome, replayed=True, deliveries={}) for _, outcome in first]
        assert await self.world.rows() == self.before


def without(mutations: Sequence[Mutation], outcomes: Sequence[Outcome | DomainError]) -> list[Mutation]:
    """The mutations that succeeded."""
    return [m for m, outcome in zip(mutations, outcomes, strict=True) if isinstance(outcome, Outcome)]


def _ranges(addresses: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for address in sorted(addresses):
        if ranges and ranges[-1][1] == address - 1:
            ranges[-1] = (ranges[-1][0], address)
        else:
            ranges.append((address, address))
    return ranges


def _identifier(kind: str, value: str) -> Identifier:
    return Identifier(IdentifierKind(kind), bytes.fromhex(value))


def _identifiers(row: dict[str, object]) -> set[Identifier]:
    macs = row["macs"]
    assert isinstance(macs, list)
    found = {Identifier.mac(mac) for mac in macs}
    for name, kind in (("client_id", IdentifierKind.CLIENT_ID), ("duid", IdentifierKind.DUID)):
        if row[name] is not None:
            found.add(_identifier(kind.value, str(row[name]).replace(":", "")))
    return found


def _has(row: dict[str, object], identifier: Identifier) -> bool:
    return identifier in _identifiers(row)
