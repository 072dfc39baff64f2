"""Does the events of a story to a world, watching; then heals everything and waits until all is well."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.logger import LogEvent
from twisted.python.failure import Failure

from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.ids import Prefix, parse_id
from regiond.domain.mutations import Actor, Claim, Mutation, NewDevice, Outcome, Release
from regiond.domain.reservations import Kind, Reservation
from tests.clusterd.log_events import logged
from tests.fakes.tables import Tables
from tests.simulation.cluster import Cluster
from tests.simulation.database import is_refusal, topologies
from tests.simulation.other_senders import send_past_dispatcher
from tests.simulation.stories import Event, Story
from tests.simulation.watch import Violated, Watch
from tests.simulation.world import ACCOUNT, NETWORKS, World, interface, number_of

LONGEST_RECOVERY_SECONDS = 400.0  # the next comparison of the whole sets, and a back-off before it
MOST_STEPS = 60_000
REFUSALS = (None, "before", "half-way", "after")
ACTOR = Actor(ACCOUNT, "tester", is_admin=True)


# Note [Former lives]
# A daemon that was killed leaves coroutines that wait for ever. Collecting one ends it in the middle, with its
# `finally` clauses: that is no part of any story, so nothing is collected while one is told.


def tell(story: Story) -> World:
    """Raises Violated, or whatever else went wrong. See Note [Former lives]."""
    gc.disable()
    try:
        return _tell(story)
    finally:
        gc.enable()


def _tell(story: Story) -> World:
    with logged() as events:
        teller = Teller(story)
        try:
            teller.prepare()
            for event in story.events:
                teller.do(event)
            teller.end_well()
        finally:
            _find_bugs(events)
    return teller.world


def _find_bugs(events: Sequence[LogEvent]) -> None:
    """What the daemons log as a failure is a bug of theirs."""
    for event in events:
        failure = event.get("log_failure")
        if failure is not None:
            raise Violated(f"a bug was logged as {event.get('event')}: {failure.getTraceback()}")


class Teller:
    """The events of `stories.EVENTS`, as methods."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.world = World(story.hold)
        self.watch = Watch(self.world)
        self._claims: list[Reservation] = []
        self._images: dict[str, tuple[bytes, frozenset[HostMap], frozenset[HostMap]]] = {}
        self._backup: Tables | None = None
        self._slow_topologies: set[str] = set()

    def prepare(self) -> None:
        """Everybody is up, and has registered."""
        self.world.region.start()
        first, second = self.world.clusters
        first.networks = (interface(0, 0), interface(1, 0))
        second.networks = (interface(0, 1),)
        first.start()
        self._until(lambda: len(self.world.tables.subnets) == len(NETWORKS), "the first topology")
        second.start()
        self._until(lambda: len(self.world.tables.interfaces) == 3, "the second topology")
        if self.story.pair:
            self.confirm_pair()

    def do(self, event: Event) -> None:
        name, numbers = event
        getattr(self, "pass_" if name == "pass" else name.replace("-", "_"))(*numbers)
        self.watch.look()

    # ---- time ----

    def run(self, steps: int, schedule: int) -> None:
        self.world.random.seed(schedule)
        self.world.steps.new_speeds()
        for queue in self.world.run(steps):
            self.watch.look_after(queue)

    def pass_(self, seconds: int, steps: int, schedule: int) -> None:
        for second in range(seconds):
            self.world.advance(1.0)
            self.run(steps, schedule + second)

    def calm(self, schedule: int) -> None:
        """Until nothing is left to do but wait."""
        before = self.world.steps.done
        self.run(MOST_STEPS, schedule)
        if self.world.steps.done - before >= MOST_STEPS:
            raise Violated(f"no rest after {MOST_STEPS} steps")

    # ---- claimants ----

    def claim(self, network: int, mac: int, address: int) -> None:
        prefix = NETWORKS[network].removesuffix("0/29")
        self._claim_device(network, (identifier(mac),), f"{prefix}{address + 2}" if address else None)

    def claim_for_two(self, network: int, mac: int) -> None:
        self._claim_device(network, (identifier(mac), identifier(mac + 1)), None)

    def _claim_device(self, network: int, identifiers: tuple[Identifier, ...], address: str | None) -> None:
        number = self.world.new_id()
        device = NewDevice(number, None, None)
        self._submit_claim(
            network,
            lambda subnet: Claim(
                number, Kind.DEVICE, subnet, ACCOUNT, "tester", address, identifiers=identifiers, device=device
            ),
        )

    def reserve(self, network: int) -> None:
        number = self.world.new_id()
        self._submit_claim(network, lambda subnet: Claim(number, Kind.USER, subnet, ACCOUNT, "tester"))

    def _submit_claim(self, network: int, claim: Callable[[int], Claim]) -> None:
        subnet = self.world.subnet_with(NETWORKS[network])
        if subnet is None or not self.world.region.is_open or self.watch.goes_back:
            return

        def acknowledged(outcome: Outcome) -> None:
            (made,) = outcome.reservations
            if outcome.created:
                self._claims.append(made)
                self.watch.claimed[made.id] = (subnet, number_of(made.address))

        answer = self.world.region.submit(Mutation(ACTOR, (claim(subnet),), "claim"))
        answer.addCallbacks(acknowledged, _only_refusals)

    def release(self, nth: int, force: int) -> None:
        if not self._claims or not self.world.region.is_open or self.watch.goes_back:
            return
        held = self._claims[-1 - nth % len(self._claims)]
        place = (held.subnet, number_of(held.address))
        number = self.watch.given_back(held.id, place)
        if force:
            self.watch.forced.add(place)
        step = Release(number, held.subnet, held.address, force=bool(force))
        self.world.region.submit(Mutation(ACTOR, (step,), "release")).addErrback(_only_refusals)

    # ---- misfortune ----

    def cut(self, cluster: int, of_client: int, of_server: int, client_hears: int, server_hears: int) -> None:
        wire = self._cluster(cluster).wire
        if wire is not None and not wire.broken:
            wire.cut(of_client, of_server, client_hears=bool(client_hears), server_hears=bool(server_hears))

    def partition(self, cluster: int, on: int) -> None:
        """No new connection; the one that there is ends for nobody until they notice."""
        one = self._cluster(cluster)
        if on:
            self.world.unreachable.add(one.name)
            self.cut(cluster, 0, 0, 0, 0)
        else:
            self.world.unreachable.discard(one.name)

    def stall_network(self, cluster: int, on: int) -> None:
        wire = self._cluster(cluster).wire
        if wire is not None:
            for end in (wire.client, wire.server):
                (wire.freeze if on else wire.thaw)(end)

    def kill_cluster(self, cluster: int) -> None:
        one = self._cluster(cluster)
        if one.process.alive:
            one.kill()

    def kill_cluster_at(self, cluster: int, statements: int) -> None:
        self._cluster(cluster).disk.kill_after(statements)

    def start_cluster(self, cluster: int) -> None:
        one = self._cluster(cluster)
        if not one.process.alive:
            one.start()

    def restart_cluster(self, cluster: int) -> None:
        self.kill_cluster(cluster)
        self.start_cluster(cluster)

    def kill_region(self) -> None:
        if self.world.region.process.alive:
            self.world.kill_region()

    def start_region(self) -> None:
        if not self.world.region.process.alive and not self.world.database.down:
            self.world.region.start()

    def late_snapshot(self, cluster: int, network: int, ago: int) -> None:
        """What a regiond that was stopped for a while still sends: the cluster has to refuse it."""
        self._late(cluster, network, ago, whole=True)

    def late_difference(self, cluster: int, network: int, ago: int) -> None:
        self._late(cluster, network, ago, whole=False)

    def lossy_difference(self, cluster: int, network: int) -> None:
        """What a regiond that loses host maps would send next: the cluster has to refuse it."""
        one = self._cluster(cluster)
        subnet = self._served_by(one, network)
        held = next((r for r, _ in one.disk.contents() if parse_id(Prefix.SUBNET, r.subnet) == subnet), None)
        since = 0 if held is None or held.forgetting else held.accepted_generation
        if held is not None and held.origin.history != self.world.tables.history:
            return
        if subnet is not None:
            changes = self.watch.changes_since(subnet, since)
            send_past_dispatcher(
                self.world, one.accepted, subnet, [replace(change, wanted=change.before) for change in changes[:1]]
            )

    def late_on_former_connection(self, cluster: int, network: int, ago: int, whole: int) -> None:
        """What still comes out of a connection that is over: nobody listens, also when the subnet was forgotten."""
        one, subnet = self._cluster(cluster), self.world.subnet_with(NETWORKS[network])
        former = [w.client for w in self.world.wires if w.client.process is one.process and w is not one.wire]
        if subnet is not None and one.process.alive and former:
            send_past_dispatcher(
                self.world, former[-1].protocol.locator, subnet, self.watch.change_once(subnet, ago), whole=bool(whole)
            )

    def _late(self, cluster: int, network: int, ago: int, *, whole: bool) -> None:
        one = self._cluster(cluster)
        subnet = self._served_by(one, network)
        # Nobody can have sent anything to who has only begun to serve.
        if subnet is not None and any(parse_id(Prefix.SUBNET, r.subnet) == subnet for r, _ in one.disk.contents()):
            send_past_dispatcher(self.world, one.accepted, subnet, self.watch.change_once(subnet, ago), whole=whole)

    def _served_by(self, cluster: Cluster, network: int) -> int | None:
        """The subnet of that network, when the cluster serves it and lives."""
        subnet = self.world.subnet_with(NETWORKS[network])
        row = self.world.tables.deliveries.get((subnet, self.world.cluster_id(cluster)))
        return subnet if cluster.process.alive and row is not None and row["role"] == "serving" else None

    def database(self, up: int) -> None:
        self.world.database.down = not up
        self.world.database.failing = 0

    def database_fails(self, after: int, questions: int) -> None:
        """It answers some questions, then some not, and then is there again."""
        self.world.database.answered, self.world.database.failing = after, questions

    def slow_topologies(self, cluster: int, on: int) -> None:
        """What is reported on the latest connection is not done, until what is reported on all of them is."""
        number = self.world.cluster_id(self._cluster(cluster))
        if number is not None:
            if on:
                self._slow_topologies.add(topologies(number, self.world.tables.epochs[number]))
            for queue in self._slow_topologies:
                (self.world.steps.freeze if on else self.world.steps.thaw)(queue)

    def slow_server(self, cluster: int, on: int) -> None:
        one = self._cluster(cluster)
        (self.world.steps.freeze if on else self.world.steps.thaw)(one.server.queue)

    def slow_thread(self, cluster: int, on: int) -> None:
        one = self._cluster(cluster)
        (self.world.steps.freeze if on else self.world.steps.thaw)(one.thread)

    def let_server(self, cluster: int, steps: int) -> None:
        """So many steps of its server, and everything else that they lead to."""
        self._let(self._cluster(cluster).server.queue, steps)

    def let_thread(self, cluster: int, steps: int) -> None:
        self._let(self._cluster(cluster).thread, steps)

    def _let(self, queue: str, steps: int) -> None:
        for _ in range(steps):
            self.world.steps.run_of(queue)
            self.watch.look_after(queue)
            self.calm(0)

    def refuse(self, cluster: int, how: int) -> None:
        self._cluster(cluster).server.refusing = REFUSALS[how]

    def reject(self, cluster: int, mac: int, removals: int) -> None:
        server = self._cluster(cluster).server
        (server.stuck if removals else server.rejected).add(identifier(mac))
        self._cluster(cluster).ever_rejected.add(identifier(mac))

    def heal_server(self, cluster: int) -> None:
        self._cluster(cluster).server.accept_all()

    def full_disk(self, cluster: int, on: int) -> None:
        self._cluster(cluster).disk.fill(bool(on))

    def somebody_changes_server(self, cluster: int, nth: int) -> None:
        """A host map is lost behind clusterd's back, or one comes again."""
        server = self._cluster(cluster).server
        before = server.maps
        if before and nth:
            server.maps = before - {sorted(before)[nth % len(before)]}
        self.watch.somebody_changed(self._cluster(cluster), before)

    def save_disk(self, cluster: int) -> None:
        one = self._cluster(cluster)
        self._images[one.name] = (one.disk.image(), one.server.maps, one.server.leases)

    def old_disk(self, cluster: int) -> None:
        """The controller is back as it was; clusterd starts from that."""
        one = self._cluster(cluster)
        if one.name in self._images:
            self.kill_cluster(cluster)
            image, one.server.maps, one.server.leases = self._images[one.name]
            one.disk.restore(image)
            self.watch.old_disk(one)
            one.start()

    def save_region(self) -> None:
        self._backup = self.world.database.backup()

    def restore_region(self) -> None:
        """From the backup. Without a beat of the witness after it clusters have to tell what is lost; one that forgets
        a subnet does not tell of what generation that was.
        """
        kept, backup = self.world.region.witness.kept, self._backup
        if backup is None:
            return
        is_seen = kept is not None and kept[1] > backup.beats.get(kept[0], 0)
        if not is_seen and any(r.forgetting for one in self.world.clusters for r, _ in one.disk.contents()):
            return
        self.kill_region()
        self.watch.before_restore(backup, noticed=is_seen or self.watch.knows_more(backup))
        self.world.database.restore(backup)
        self.start_region()

    def end_recovery(self) -> None:
        """By force: an admin does not wait any longer for the clusters that were not heard."""
        if self.world.region.is_open and self.world.tables.recovering and not self.watch.goes_back:
            self.watch.give_up()
            self.world.region.end_waiting()

    # ---- operators ----

    def networks(self, cluster: int, which: int) -> None:
        one = self._cluster(cluster)
        has = [n for n in range(2) if which >> n & 1]
        if cluster == 1 and 1 in has:
            has.remove(1)  # the second network has one cluster
        one.has_networks(*(interface(n, cluster) for n in has))

    def confirm_pair(self) -> None:
        """Both clusters are on the same wire, an admin says, and both serve it."""
        for row in self.world.tables.interfaces.values():
            if row["serving"] == "shared-subnet":
                row["serving"] = "serving"
                self._set_role(row["subnet"], row["cluster"], "serving")

    def serve(self, cluster: int, network: int) -> None:
        self._serve(cluster, network, serves=True)

    def unserve(self, cluster: int, network: int) -> None:
        self._serve(cluster, network, serves=False)

    def _serve(self, cluster: int, network: int, *, serves: bool) -> None:
        number = self.world.cluster_id(self._cluster(cluster))
        subnet = self.world.subnet_with(NETWORKS[network])
        for row in self.world.tables.interfaces.values():
            if (row["cluster"], row["subnet"]) == (number, subnet) and row["present"]:
                row["serving"] = "serving" if serves else "shared-subnet"
                self._set_role(row["subnet"], row["cluster"], "serving" if serves else "draining")

    def _set_role(self, subnet: int, cluster: int, role: str) -> None:
        known = self.world.tables.deliveries.get((subnet, cluster))
        if known is None and role == "serving":
            self.world.tables.add_delivery(subnet, cluster, role)
        elif known is not None and (role == "serving" or known["role"] == "serving"):
            known["role"] = role

    # ---- the end ----

    def end_well(self) -> None:
        """No fault is left: everybody gets there, in bounded time, and what was released is free."""
        world = self.world
        self.database(1)
        self.start_region()
        for cluster in range(len(world.clusters)):
            self.partition(cluster, 0)
            self.stall_network(cluster, 0)
            self.slow_topologies(cluster, 0)
            self.slow_server(cluster, 0)
            self.slow_thread(cluster, 0)
            self.full_disk(cluster, 0)
            self.heal_server(cluster)
            one = self._cluster(cluster)
            if one.process.alive:
                one.disk.kill_after(1_000_000)
            else:
                one.start()
        self._until(lambda: all(map(self.watch.is_there, world.clusters)), "the faults stopped")
        waiting = [
            r for r in world.tables.reservations.values() if r["status"] == "releasing" and not r["confirmed_at"]
        ]
        if waiting:
            raise Violated(f"everybody has everything, and these wait to be confirmed: {waiting}")
        for _ in range(world.hold + 3):
            world.advance(1.0)
            self.calm(0)
        releasing = [row for row in world.tables.reservations.values() if row["status"] == "releasing"]
        if releasing:
            raise Violated(f"the hold has passed, and these are not free: {releasing}")

    def _until(self, there: Callable[[], bool], what: str) -> None:
        end = self.world.seconds + LONGEST_RECOVERY_SECONDS
        schedule = 0
        self.calm(schedule)
        while not there():
            if self.world.seconds >= end:
                lacks = {one.name: self.watch.why_not_there(one) for one in self.world.clusters}
                raise Violated(f"{LONGEST_RECOVERY_SECONDS} s after {what}: {lacks}")
            self.world.advance(1.0)
            schedule += 1
            self.calm(schedule)

    def _cluster(self, number: int) -> Cluster:
        return self.world.clusters[number]


def identifier(number: int) -> Identifier:
    return Identifier(IdentifierKind.MAC, (0x020000000000 + number).to_bytes(6))


def _only_refusals(failure: Failure) -> None:
    if not is_refusal(failure.value):
        failure.raiseException()
