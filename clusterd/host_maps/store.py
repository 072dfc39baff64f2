"""The accepted host maps on disk: what lets DHCP outlive the region, the link and this process.

One SQLite file, opened by one process. Every method is one transaction and durable when it returns (WAL with
`synchronous=FULL`: one fsync each). Methods block, so a daemon calls them in one thread of their own, which also
keeps their order.

Transfers are staged in SQLite's temporary tables, which spill to a file: a million announced maps take no memory,
and nothing of an unfinished transfer survives the process.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import xor
from pathlib import Path

from clusterd.convergence.acceptance import (
    Accepted,
    Announced,
    MapChange,
    Origin,
    SubnetRecord,
    check_generations,
    is_base,
    record_after,
)
from clusterd.convergence.plan import Network, contains
from clusterd.host_maps.schema import prepare, transaction, translated
from clusterd.host_maps.tables import Tables
from clusterd.protocol.digest import digest_of_map
from clusterd.protocol.errors import DigestMismatch, UnknownTransfer
from clusterd.protocol.values import HostMap, Identifier

MAX_LISTED_CHANGES = 5_000
MAX_OPEN_TRANSFERS = 1_024


@dataclass(slots=True)
class _Transfer:
    """A transfer under way: its rows are in the staging table under `key`."""

    key: int
    announced: Announced
    count: int
    received: int = 0  # rows that came, a page that came twice counted twice


class HostMapStore:
    """The store in an open database. Methods raise StoreFailed when the disk refuses; then nothing has changed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tables = Tables(connection)
        self._transfers: dict[str, _Transfer] = {}
        self._next_transfer_key = 1

    @classmethod
    def open(cls, path: Path) -> "HostMapStore":
        """Open or make the store; its directory is made with mode 0700, the file with 0600.

        Raises StoreUnusable, whose message says what to do.
        """
        return cls(prepare(path))

    def close(self) -> None:
        """Give the file back; the store cannot be used any more."""
        self._connection.close()

    def stamp(self) -> Origin | None:
        """Where the latest accepted change came from; None before the first."""
        with translated():
            return self._tables.stamp()

    def subnets(self) -> tuple[SubnetRecord, ...]:
        """What is held, forgotten subnets that are still in the DHCP server included; by subnet id."""
        with translated():
            return tuple(record for _, record in self._tables.records())

    def host_maps(self, subnet: str) -> frozenset[HostMap]:
        """The accepted set of one subnet; empty for one that is not held."""
        with translated():
            return frozenset(self._tables.host_maps(self._tables.record(subnet)[0]))

    def page(
        self, subnet: str, after: Identifier | None, limit: int
    ) -> tuple[SubnetRecord | None, tuple[HostMap, ...]]:
        """What is held of a subnet, and the first `limit` of its host maps after that identifier, in a fixed order."""
        with translated():
            key, record = self._tables.record(subnet)
            return record, tuple(self._tables.page(key, after, limit))

    def contents(self) -> tuple[tuple[SubnetRecord, tuple[HostMap, ...]], ...]:
        """Every subnet with its accepted set, all of one moment."""
        with translated():
            return tuple((record, tuple(self._tables.host_maps(key))) for key, record in self._tables.records())

    def former_leases(self) -> frozenset[HostMap]:
        """Host maps, without names, that were held once and may have left leases; see Note [Former leases]."""
        with translated():
            return frozenset(self._tables.former_leases())

    def former_page(self, network: Network, after: HostMap | None, limit: int) -> tuple[HostMap, ...]:
        """The first `limit` of the former leases of a network after that one, in a fixed order."""
        with translated():
            rows = self._tables.former_leases(after)
            return tuple(islice((row for row in rows if contains(network, row.address)), limit))

    def accept_delta(
        self, announced: Announced, upserts: Collection[HostMap], removals: Collection[Identifier]
    ) -> Accepted:
        """Store a change of a set. An identifier in both lists is an upsert.

        Raises GenerationMismatch, DigestMismatch or MalformedArgument; then nothing has changed.
        """
        with transaction(self._connection):
            key, base = self._base(announced)
            wanted: dict[Identifier, HostMap | None] = dict.fromkeys(removals)
            wanted.update((host_map.identifier, host_map) for host_map in upserts)
            held = ((identifier, self._tables.host_map(key, identifier), wanted[identifier]) for identifier in wanted)
            changes = [MapChange(*change) for change in held if change[1] != change[2]]
            key = self._write_checked(announced, base, changes)
            self._tables.write_changes(key, changes)
            return self._accepted(announced, base, changes)

    def begin_transfer(self, announced: Announced, count: int) -> None:
        """Make ready for `count` rows of a change too large for one call; an unfinished one is discarded.

        Raises GenerationMismatch, SnapshotOlder or MalformedArgument.
        """
        self._discard(announced.subnet)
        with translated():
            check_generations(self._tables.record(announced.subnet)[1], announced)
        if len(self._transfers) >= MAX_OPEN_TRANSFERS:
            self._discard(next(iter(self._transfers)))
        self._transfers[announced.subnet] = _Transfer(self._next_transfer_key, announced, count)
        self._next_transfer_key += 1

    def add_page(
        self, subnet: str, to_generation: int, upserts: Collection[HostMap], removals: Collection[Identifier]
    ) -> None:
        """Stage a page; a page that comes twice counts once. Nothing of it is durable yet.

        Raises UnknownTransfer, also when there are more rows than announced.
        """
        transfer = self._transfer(subnet, to_generation)
        with transaction(self._connection):
            self._tables.stage(transfer.key, upserts, removals)
        transfer.received += len(upserts) + len(removals)
        if transfer.received > transfer.count:
            # Counting costs a scan, so only where it may matter; afterwards the count is exact again.
            with translated():
                transfer.received = self._tables.count_staged(transfer.key)
        if transfer.received > transfer.count:
            self._discard(subnet)
            raise UnknownTransfer(f"{transfer.received} rows came where {transfer.count} were announced: discarded")

    def commit_transfer(self, subnet: str, to_generation: int) -> Accepted:
        """Accept what was staged. Raises as `accept_delta` does, and SnapshotOlder and UnknownTransfer.

        The transfer is over either way.
        """
        transfer = self._transfer(subnet, to_generation)
        try:
            with transaction(self._connection):
                accepted = self._commit(transfer)
                self._tables.drop_staged(transfer.key)
        except BaseException:
            self._discard(subnet)
            raise
        del self._transfers[subnet]
        return accepted

    def discard_transfers(self) -> None:
        """Forget every unfinished transfer."""
        for subnet in list(self._transfers):
            self._discard(subnet)

    def forget(self, subnet: str) -> SubnetRecord | None:
        """Drop the subnet's host maps. Its record stays, `forgetting`, until `drop_forgotten`."""
        self._discard(subnet)
        with transaction(self._connection):
            key, record = self._tables.record(subnet)
            if record is None:
                return None
            self._tables.delete_maps(key)
            forgotten = SubnetRecord(subnet, record.cidr, record.origin, 0, 0, 0, 0, forgetting=True)
            self._tables.write_record(forgotten)
            return forgotten

    def drop_forgotten(self, subnets: Iterable[str]) -> None:
        """The DHCP server has none of their maps any more."""
        with transaction(self._connection):
            for key, record in map(self._tables.record, subnets):
                if record is not None and record.forgetting:
                    self._tables.delete_record(key)

    def record_applied(
        self, applied: Sequence[SubnetRecord], ended: Collection[HostMap] = ()
    ) -> tuple[SubnetRecord, ...]:
        """The DHCP server has what these records had accepted, and the leases left of `ended` are over.

        Answers the records that this moved, as they are now. A subnet that was replaced meanwhile, by another origin or
        by another set of the same generation, is left.
        """
        moved = []
        with transaction(self._connection):
            self._tables.drop_former_leases(ended)
            for then in applied:
                _, now = self._tables.record(then.subnet)
                if now is None or now.forgetting or now.origin != then.origin:
                    continue
                generation = then.accepted_generation
                same = now.accepted_generation == generation and now.digest == then.digest
                if now.applied_generation < generation and (same or now.accepted_generation > generation):
                    now = SubnetRecord(
                        now.subnet,
                        now.cidr,
                        now.origin,
                        now.accepted_generation,
                        generation,
                        now.digest,
                        now.host_maps,
                    )
                    self._tables.write_record(now)
                    moved.append(now)
        return tuple(moved)

    # ---- inside a transaction ----

    def _commit(self, transfer: _Transfer) -> Accepted:
        announced = transfer.announced
        staged = self._tables.count_staged(transfer.key)
        if staged != transfer.count:
            raise DigestMismatch(f"{staged} of {transfer.count} announced rows came")
        key, base = self._base(announced)
        whole_set = announced.from_generation is None
        changes: list[MapChange] = []

        def told() -> Iterator[MapChange]:
            # Listed as they pass by: a million of them are never in memory together.
            for change in self._tables.staged_changes(transfer.key, key, whole_set):
                if len(changes) <= MAX_LISTED_CHANGES:
                    changes.append(change)
                yield change

        written_key = self._write_checked(announced, base, told())
        self._tables.write_staged(transfer.key, written_key, whole_set)
        return self._accepted(announced, base, changes if len(changes) <= MAX_LISTED_CHANGES else None)

    def _base(self, announced: Announced) -> tuple[int, SubnetRecord | None]:
        """What the change builds on, after the guards. What another origin left is removed."""
        key, record = self._tables.record(announced.subnet)
        check_generations(record, announced)
        if not is_base(record, announced):
            self._tables.delete_maps(key)
            return key, None
        return key, record

    def _write_checked(self, announced: Announced, base: SubnetRecord | None, changes: Iterable[MapChange]) -> int:
        """Write the subnet's record if the changes lead to the announced set. Raises DigestMismatch."""
        digest, count = (base.digest, base.host_maps) if base is not None else (0, 0)
        for change in changes:
            digest ^= reduce(xor, (digest_of_map(m) for m in (change.before, change.after) if m is not None), 0)
            count += (change.after is not None) - (change.before is not None)
        if digest != announced.digest:
            raise DigestMismatch(f"the set has digest {digest:016x}, announced was {announced.digest:016x}")
        return self._tables.write_record(record_after(base, announced, count))

    def _accepted(
        self, announced: Announced, base: SubnetRecord | None, changes: Sequence[MapChange] | None
    ) -> Accepted:
        """Stamp the store and drop what the subnet supersedes; see Note [Former origin]."""
        if self._tables.stamp() != announced.origin:
            self._tables.set_stamp(announced.origin)
        dropped = []
        for key, other in self._tables.records_of_network(announced.cidr):
            if other.origin != announced.origin:
                self._tables.delete_record(key)
                dropped.append(other.subnet)
        key, record = self._tables.record(announced.subnet)
        if dropped:
            self._tables.drop_former_leases(self._tables.former_leases_of_held(key))
        assert record is not None  # just written
        complete = base is not None and not dropped and changes is not None
        return Accepted(record, tuple(changes or ()), complete, tuple(dropped))

    def _transfer(self, subnet: str, to_generation: int) -> _Transfer:
        transfer = self._transfers.get(subnet)
        if transfer is None or transfer.announced.to_generation != to_generation:
            raise UnknownTransfer(f"no transfer to generation {to_generation} of subnet {subnet} was begun")
        return transfer

    def _discard(self, subnet: str) -> None:
        transfer = self._transfers.pop(subnet, None)
        if transfer is not None:
            with transaction(self._connection):
                self._tables.drop_staged(transfer.key)
