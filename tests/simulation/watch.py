"""What must be true, looked at after every step.

# Note [Taint]
Two faults make a DHCP server serve, for a while, what the region cannot know of: somebody else changes the server, and
an old disk comes back. What the first brought is tainted until clusterd has repaired it. With an old disk, what is
served of a subnet is excused until the cluster has applied there what the region knew it to have applied before; what
is on the disk never is. Nothing else is.

# Note [Other pasts]
A database that was restored knows nothing of what happened since the backup. What is desired is remembered here by
history, the lost ones too. Until the region recovers, nothing can be claimed; from the moment in which a subnet is
settled everything holds again that held before: what is served is somebody's, or rests, and what was acknowledged and
is on the disk of some cluster that did not lose it is reserved as it was.

A backup of after the last beat of the witness is not noticed before a cluster says more than the database knows; until
then nobody asks for anything in a story. When the wait for a cluster is ended by force, what it serves or has on its
disk then is excused until it is gone from both, and what only such a cluster knew need not come back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clusterd.convergence.acceptance import SubnetRecord
from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.ids import Prefix, format_id, parse_id
from tests.fakes.tables import Row, Tables
from tests.simulation.cluster import Cluster
from tests.simulation.database import DATABASE, WRITER
from tests.simulation.world import World, number_of

Place = tuple[int, int]
"""A subnet's id and an address as a number."""

NONE: frozenset[HostMap] = frozenset()


class Violated(AssertionError):
    """Something that must be true is not."""


@dataclass(frozen=True)
class Change:
    """What was desired at a generation and before; `digested` is the set whose digest is announced."""

    generation: int
    before: frozenset[HostMap]
    wanted: frozenset[HostMap]
    digested: frozenset[HostMap]


class Watch:
    """Remembers what it needs to judge the next step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sets: dict[tuple[str, int], list[frozenset[HostMap]]] = {}  # what was desired, by generation
        self._histories: list[str] = []  # in their order
        self._goes_back = False  # a backup was restored, and the region does not know yet
        self._last_served: dict[tuple[str, Place], float] = {}
        self._holders: dict[Place, tuple[int, frozenset[str]]] = {}  # by place: reservation and its identifiers
        self._accepted: dict[tuple[str, str], SubnetRecord] = {}
        self._records: dict[str, dict[int, SubnetRecord]] = {cluster.name: {} for cluster in world.clusters}
        self._tainted: dict[str, set[HostMap]] = {cluster.name: set() for cluster in world.clusters}
        self._lost: dict[str, set[HostMap]] = {cluster.name: set() for cluster in world.clusters}
        # With an old disk: the history and what was applied by subnet. See Note [Taint].
        self._old: dict[str, dict[int, tuple[str, int]]] = {cluster.name: {} for cluster in world.clusters}
        self._to_recover: dict[Place, frozenset[str]] = {}  # the region's record of it was lost: identifiers
        self._given_up: dict[str, set[HostMap]] = {cluster.name: set() for cluster in world.clusters}
        self.forced: set[Place] = set()
        self.claimed: dict[int, Place] = {}  # acknowledged and not given back: reservation → where

    # ---- what a story tells ----

    def somebody_changed(self, cluster: Cluster, before: frozenset[HostMap]) -> None:
        """Not clusterd. See Note [Taint]."""
        self._tainted[cluster.name] |= cluster.server.maps - before
        self._lost[cluster.name] |= before - cluster.server.maps

    def old_disk(self, cluster: Cluster) -> None:
        """Its store and its server are of the past. See Note [Taint]."""
        number = self._world.cluster_id(cluster)
        for subnet in self._world.tables.subnets:
            known = self._world.tables.deliveries.get((subnet, number))
            applied = 0 if known is None else known["applied_generation"]
            self._old[cluster.name][subnet] = (self._world.tables.history, applied)
        self._accepted = {key: record for key, record in self._accepted.items() if key[0] != cluster.name}
        self._forget_what_nobody_has()

    @property
    def goes_back(self) -> bool:
        """Whether a backup was restored, and the region does not know yet."""
        return self._goes_back

    def knows_more(self, backup: Tables) -> bool:
        """Whether some cluster's disk has anything that a database as of then would not know of, nor would hear of in a
        recovery that was under way then.
        """
        for cluster in self._world.clusters:
            for record, _ in cluster.disk.contents():
                subnet = backup.subnets.get(parse_id(Prefix.SUBNET, record.subnet) or 0)
                if subnet is not None and subnet["recovering"] and record.origin.history != backup.history:
                    continue
                beyond = subnet is None or record.accepted_generation > subnet["generation"]
                if beyond or record.origin.history not in {backup.history, *backup.former_histories}:
                    return True
        return False

    def before_restore(self, backup: Tables, *, noticed: bool) -> None:
        """The region goes back to that, which somebody will notice, or nobody. See Note [Other pasts]."""
        self._goes_back = noticed
        for (history, subnet), sets in self._sets.items():
            if not noticed and history == backup.history and subnet in backup.subnets:
                del sets[backup.subnets[subnet]["generation"] + 1 :]
        later = self._on_disks(self._world.clusters, since=backup)
        for number, place in list(self.claimed.items()):
            known = backup.reservations.get(place)
            if known is None or known["id"] != number:
                del self.claimed[number]
                identifiers = self._holders[place][1] if place in self._holders else frozenset()
                # A disk of before the backup may have the same by chance: released since, and claimed once more.
                self._to_recover[place] = identifiers if identifiers <= later.get(place, set()) else frozenset()
        self._forget_what_nobody_has()
        self._holders = {}

    def give_up(self) -> None:
        """The wait for those that were not heard is ended by force. See Note [Other pasts]."""
        unheard = [c for c in self._world.clusters if self._world.cluster_id(c) in self._world.tables.unheard]
        for cluster in unheard:
            self._given_up[cluster.name] |= cluster.server.maps.union(*(maps for _, maps in cluster.disk.contents()))
        self._forget_what_nobody_has(but_for=unheard)

    def _forget_what_nobody_has(self, but_for: Sequence[Cluster] = ()) -> None:
        """A reservation that the region lost can come back only from a disk."""
        on_disk = self._on_disks([cluster for cluster in self._world.clusters if cluster not in but_for])
        for place, identifiers in list(self._to_recover.items()):
            if not identifiers or not identifiers <= on_disk.get(place, set()):
                del self._to_recover[place]

    def _on_disks(self, clusters: Sequence[Cluster], since: Tables | None = None) -> dict[Place, set[str]]:
        """Who has which place on these clusters' disks; only on those that have heard of what came after `since`."""
        on_disk: dict[Place, set[str]] = {}
        for cluster in clusters:
            for record, maps in cluster.disk.contents():
                subnet = parse_id(Prefix.SUBNET, record.subnet)
                assert subnet is not None
                if since is not None and not _is_after(record, subnet, since):
                    continue
                for host_map in () if record.forgetting else maps:
                    on_disk.setdefault((subnet, number_of(host_map.address)), set()).add(host_map.identifier.text)
        return on_disk

    def given_back(self, number: int, place: Place) -> int:
        """Somebody releases a reservation: its number, which is another one since it was recovered."""
        self.claimed.pop(number, None)
        if self._to_recover.pop(place, None) is not None:
            row = self._world.tables.reservations.get(place)
            return number if row is None else int(row["id"])
        return number

    def change_once(self, subnet: int, ago: int) -> list["Change"]:
        """The change to a generation so many ago; empty for none."""
        generation = len(self._desired_sets(subnet)) - 1 - ago
        return self.changes_since(subnet, generation - 1)[:1] if generation > 0 else []

    def changes_since(self, subnet: int, generation: int) -> list["Change"]:
        """What was desired after that generation, change by change."""
        sets = self._desired_sets(subnet)
        return [Change(n, sets[n - 1], sets[n], sets[n]) for n in range(generation + 1, len(sets))]

    # ---- after a step ----

    def look(self) -> None:
        """At everything. Raises Violated."""
        self._look_at_region()
        for cluster in self._world.clusters:
            self._look_at_disk(cluster)
            self._look_at_server(cluster)

    def look_after(self, queue: str) -> None:
        """At what a step of this queue can have changed. Raises Violated."""
        if queue == WRITER or queue.startswith(DATABASE):
            self._look_at_region()
            for cluster in self._world.clusters:
                self._look_at_server(cluster)
        for cluster in self._world.clusters:
            if queue == cluster.thread:
                self._look_at_disk(cluster)
            if queue in (cluster.thread, cluster.server.queue):
                self._look_at_server(cluster)

    def _look_at_region(self) -> None:
        self._look_at_desired()
        self._look_at_deliveries()
        self._look_at_reservations()

    def _look_at_desired(self) -> None:
        history = self._world.tables.history
        if history not in self._histories:
            self._histories.append(history)
            self._goes_back = False
        for subnet, row in self._world.tables.subnets.items():
            sets = self._sets.setdefault((history, subnet), [NONE])
            while len(sets) <= row["generation"]:
                sets.append(self._desired(subnet))

    def _desired_sets(self, subnet: int) -> list[frozenset[HostMap]]:
        """By generation, within the history of today."""
        return self._sets.get((self._world.tables.history, subnet), [])

    def _desired(self, subnet: int) -> frozenset[HostMap]:
        return frozenset(
            HostMap(_identifier(row), row["address"], row["hostname"])
            for row in self._world.tables.maps.values()
            if row["subnet"] == subnet and not row["removed"]
        )

    def _look_at_disk(self, cluster: Cluster) -> None:
        """Within one history applied ≤ accepted ≤ desired, nothing goes back, and the set is that generation's."""
        here = cluster.name
        records = self._records[here] = {}
        for record, maps in cluster.disk.contents():
            subnet = parse_id(Prefix.SUBNET, record.subnet)
            assert subnet is not None
            history = record.origin.history
            sets = self._sets[history, subnet]
            before = self._accepted.get((here, record.subnet))
            self._accepted[here, record.subnet] = record
            if before is not None and before.origin != record.origin:
                later = self._histories.index(history) > self._histories.index(before.origin.history)
                _must(later, f"{here} went back from {before.origin} to {record.origin}")
                before = None
            if record.forgetting:
                continue
            records[subnet] = record
            accepted, applied = record.accepted_generation, record.applied_generation
            _must(applied <= accepted < len(sets), f"{here}: {applied} ≤ {accepted} ≤ {len(sets) - 1} is not so")
            _must(maps == sets[accepted], f"{here} has other host maps of {record.cidr} at generation {accepted}")
            _must(record.digest == digest_of(maps), f"{here}: the digest of {record.cidr} is wrong")
            _must(record.host_maps == len(maps), f"{here}: the count of {record.cidr} is wrong")
            if before is not None and not before.forgetting:
                _must(before.accepted_generation <= accepted, f"{here}: accepted went back to {accepted}")
                _must(before.applied_generation <= applied, f"{here}: applied went back to {applied}")

    def _look_at_server(self, cluster: Cluster) -> None:
        """What clusterd says is applied is, and what is served is somebody's."""
        maps, here = cluster.server.maps, cluster.name
        self._tainted[here] &= maps
        self._lost[here] -= maps
        if self._given_up[here]:
            self._given_up[here] &= maps.union(*(held for _, held in cluster.disk.contents()))
        if self._old[here]:
            self._end_excuses(cluster)
        by_subnet: dict[int, set[HostMap]] = {}
        for host_map in maps - self._tainted[here]:
            subnet = self._world.subnet_of(host_map)
            _must(subnet is not None, f"{here} serves {host_map} of no subnet")
            assert subnet is not None
            if subnet not in self._old[here]:
                by_subnet.setdefault(subnet, set()).add(host_map)
                if host_map in self._given_up[here]:
                    continue
                place = (subnet, number_of(host_map.address))
                self._last_served[here, place] = self._world.seconds
                self._must_be_held(cluster, host_map, place)
        for subnet in self._world.tables.subnets:
            if subnet not in self._old[here]:
                self._look_at_served(cluster, subnet, by_subnet.get(subnet, set()))

    def _end_excuses(self, cluster: Cluster) -> None:
        """Where it has caught up with what the region knew; see Note [Taint]."""
        here = cluster.name
        if self.is_there(cluster):
            self._old[here].clear()
        for subnet, (history, applied) in list(self._old[here].items()):
            record = self._records[here].get(subnet)
            if record is not None and record.origin.history == self._world.tables.history:
                caught_up = record.applied_generation >= (applied if record.origin.history == history else 1)
                if caught_up and record.applied_generation:
                    del self._old[here][subnet]

    def _look_at_served(self, cluster: Cluster, subnet: int, served: set[HostMap]) -> None:
        here, tables = cluster.name, self._world.tables
        maps, history = cluster.server.maps, tables.history
        row = tables.deliveries.get((subnet, self._world.cluster_id(cluster)))
        leased = {m for m in cluster.server.leases - maps if self._world.subnet_of(m) == subnet}
        last = self._accepted.get((here, format_id(Prefix.SUBNET, subnet)))
        is_of_today = last is None or last.origin.history == history
        if row is not None and row["role"] != "former":
            applied = row["applied_generation"]
            # Else it may have whatever was desired in any past.
            if len(self._histories) == 1 or (applied and not self._goes_back):
                once = NONE.union(*self._desired_sets(subnet)[applied:])
                _must(served <= once, f"{here} serves {served} though {applied} is applied")
                _must(leased <= once, f"{here} has the leases {leased} though {applied} is applied")
        elif (served or leased) and is_of_today and not self._goes_back:
            raise Violated(f"{here} serves {served}, has the leases {leased} and is no holder")
        record = self._records[here].get(subnet)
        if record is None:
            return
        if row is not None and row["role"] == "serving" and not self._goes_back:
            known = (row["accepted_generation"], row["applied_generation"])
            true = (record.accepted_generation, record.applied_generation) if is_of_today else (0, 0)
            _must(known[0] <= true[0] and known[1] <= true[1], f"{here} is at {true}, the region has {known}")
        since = self._sets[record.origin.history, subnet][record.applied_generation :]
        for host_map in frozenset.intersection(*since):
            excused = host_map.identifier in cluster.ever_rejected or host_map in self._lost[here]
            _must(excused or host_map in served, f"{here} says that {host_map} is applied, and it is not")

    def _must_be_held(self, cluster: Cluster, host_map: HostMap, place: Place) -> None:
        if place in self.forced or self._goes_back or self._world.tables.subnets[place[0]]["recovering"]:
            return
        row = self._world.tables.reservations.get(place)
        _must(row is not None, f"{cluster.name} still serves {host_map}, and the address is free")
        assert row is not None
        rests = row["kind"] == "recovered" and row["status"] == "releasing"  # whoever had it
        whose = _identifiers(row)
        _must(rests or host_map.identifier.text in whose, f"{cluster.name} serves {host_map}, which is {whose}'s now")

    def _look_at_deliveries(self) -> None:
        for (subnet, cluster), row in self._world.tables.deliveries.items():
            accepted, applied = row["accepted_generation"], row["applied_generation"]
            desired = self._world.tables.subnets[subnet]["generation"]
            name = self._world.tables.clusters[cluster]
            told = f"the region's record of {name}: {applied} ≤ {accepted} ≤ {desired} is not so"
            _must(applied <= accepted <= desired, told)

    def _look_at_reservations(self) -> None:
        rows = self._world.tables.reservations
        for number, place in self.claimed.items():
            row = rows.get(place)
            kept = row is not None and row["id"] == number and row["status"] == "active"
            _must(kept, f"reservation {number} of {place} was acknowledged and is {row}")
        for place, identifiers in self._to_recover.items():
            if not self._goes_back and not self._world.tables.subnets[place[0]]["recovering"]:
                row = rows.get(place)
                kept = row is not None and row["status"] == "active" and identifiers <= _identifiers(row)
                _must(kept, f"{place} was acknowledged to {identifiers}, is on a disk, and is {row}")
        now: dict[Place, tuple[int, frozenset[str]]] = {}
        for place, row in rows.items():
            now[place] = (row["id"], _identifiers(row))
        for place, (number, identifiers) in self._holders.items():
            successor = now.get(place)
            if successor is None or (successor[0] != number and not identifiers <= successor[1]):
                self._must_have_rested(place)
        self._holders = now
        for subnet in self._world.tables.subnets:
            free = self._world.tables.free_ranges(subnet)
            _must(free == self._world.tables.expected_free_ranges(subnet), f"the free ranges of {subnet} are {free}")

    def _must_have_rested(self, place: Place) -> None:
        if place in self.forced or self._goes_back or self._world.tables.subnets[place[0]]["recovering"]:
            return
        for (cluster, served), when in self._last_served.items():
            rested = self._world.seconds - when
            if served == place and rested < self._world.hold:
                raise Violated(f"{place} is free {rested} s after {cluster} served it; the hold is {self._world.hold}")

    # ---- in the end ----

    def is_there(self, cluster: Cluster) -> bool:
        return self.why_not_there(cluster) is None

    def why_not_there(self, cluster: Cluster) -> str | None:
        """What this cluster and the region's record of it lack to be where they should be."""
        tables = self._world.tables
        number = self._world.cluster_id(cluster)
        if number is None:
            return "it never registered"
        if self._goes_back or tables.recovering:
            return f"the region recovers, and waits for {tables.unheard}"
        held = {parse_id(Prefix.SUBNET, record.subnet): record for record, _ in cluster.disk.contents()}
        served: dict[int | None, set[HostMap]] = {}
        for host_map in cluster.server.maps:
            served.setdefault(self._world.subnet_of(host_map), set()).add(host_map)
        known = {row["report"] for row in tables.interfaces.values() if row["cluster"] == number and row["present"]}
        if known != set(cluster.networks):
            return f"the region knows the interfaces {known}"
        for (subnet, of), row in tables.deliveries.items():
            if of != number:
                continue
            record, generation = held.pop(subnet, None), tables.subnets[subnet]["generation"]
            desired = self._desired(subnet) if row["role"] == "serving" else NONE
            if row["role"] == "draining":
                return f"{subnet} is draining"
            if row["role"] == "former" and record is not None:
                return f"{subnet} is not forgotten"
            if served.pop(subnet, set()) != desired:
                return f"{subnet} is served otherwise than desired"
            if row["role"] == "serving" and generation:
                if record is None or record.forgetting or record.origin.history != tables.history:
                    return f"{subnet} is not held"
                if not record.applied_generation == record.accepted_generation == generation:
                    return f"{subnet} is not at {generation}: {record}"
                if not row["applied_generation"] == row["accepted_generation"] == generation or row["error"]:
                    return f"the region does not know that {subnet} is at {generation}: {row}"
        if held or served:
            return f"it has more: {held}, {served}"
        if cluster.server.leases != cluster.server.maps:
            return f"leases are left: {cluster.server.leases - cluster.server.maps}"
        if any(of == number for _, of, _, _ in tables.rejected):
            return "something is rejected"
        return None


def _is_after(record: SubnetRecord, subnet: int, backup: Tables) -> bool:
    """Whether a cluster has accepted what a database as of then does not know of."""
    if record.origin.history in backup.former_histories:
        return False
    known = backup.subnets.get(subnet)
    same = known is not None and record.origin.history == backup.history
    return known is None or not same or record.accepted_generation > known["generation"]


def _must(is_so: bool, words: str) -> None:
    if not is_so:
        raise Violated(words)


def _identifiers(row: Row) -> frozenset[str]:
    return frozenset(row["macs"])


def _identifier(row: Row) -> Identifier:
    return Identifier(IdentifierKind(row["kind"]), bytes.fromhex(row["identifier"]))
