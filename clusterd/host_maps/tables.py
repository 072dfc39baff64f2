"""Rows of the host map store's tables as values and back; each method runs in its caller's transaction.

# Note [Former leases]
A host map that leaves a set may leave a lease in the DHCP server, which has to be ended before the removal counts as
applied. The server itself does not tell of it: once the host map is gone there, no comparison finds anything missing.
So who had which address is written down in the transaction that takes the host map out of the set, and struck out when
the lease has been ended, or when the same host map is held again. It is also what a region that lost its commits is
told of removals that the server has not done.
"""

import sqlite3
from collections.abc import Iterable, Iterator

from clusterd.convergence.acceptance import MapChange, Origin, SubnetRecord
from clusterd.protocol.digest import KIND_CODES
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind

_KINDS: dict[int, IdentifierKind] = {code: kind for kind, code in KIND_CODES.items()}
_RECORD = (
    "SELECT key, subnet, cidr, region, cluster, history, accepted_generation, applied_generation, digest,"
    " host_maps, forgetting FROM subnet"
)
# Rows of the staging table beside what is held, where they differ: subnet key, transfer.
_STAGED_CHANGES = (
    " FROM staged s LEFT JOIN host_map m ON m.subnet_key = ? AND m.kind = s.kind AND m.identifier = s.identifier"
    " WHERE s.transfer = ? AND (s.address IS NOT m.address OR s.hostname IS NOT m.hostname)"
)
# What is held and not in the staging table: subnet key, transfer.
_NOT_STAGED = (
    " FROM host_map WHERE subnet_key = ? AND NOT EXISTS (SELECT 1 FROM staged s WHERE s.transfer = ?"
    " AND s.kind = host_map.kind AND s.identifier = host_map.identifier)"
)
_FORMER = "INSERT OR IGNORE INTO former_lease"
_FORMER_OF_SUBNET = (
    "INSERT OR IGNORE INTO former_lease SELECT kind, identifier, address FROM host_map WHERE subnet_key = ?"
)
NO_KEY = -1

Row = tuple[int, bytes, str, str | None]


class Tables:
    """The tables in an open database. Subnets are named by their row's key, NO_KEY is none."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # ---- subnets ----

    def stamp(self) -> Origin | None:
        """Where the latest accepted change came from."""
        row = self._connection.execute("SELECT region, cluster, history FROM stamp").fetchone()
        return None if row is None else Origin(*row)

    def set_stamp(self, origin: Origin) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO stamp VALUES (1, ?, ?, ?)", (origin.region, origin.cluster, origin.history)
        )

    def records(self) -> list[tuple[int, SubnetRecord]]:
        """Every subnet with its key, by subnet id."""
        return [_record(row) for row in self._connection.execute(f"{_RECORD} ORDER BY subnet")]

    def records_of_network(self, cidr: str) -> list[tuple[int, SubnetRecord]]:
        """The subnets with this network, with their keys."""
        return [_record(row) for row in self._connection.execute(f"{_RECORD} WHERE cidr = ?", (cidr,))]

    def record(self, subnet: str) -> tuple[int, SubnetRecord | None]:
        """One subnet's key and record, or NO_KEY and None."""
        row = self._connection.execute(f"{_RECORD} WHERE subnet = ?", (subnet,)).fetchone()
        return (NO_KEY, None) if row is None else _record(row)

    def write_record(self, record: SubnetRecord) -> int:
        """Insert or replace; answers the key."""
        origin = record.origin
        values = (
            record.cidr,
            origin.region,
            origin.cluster,
            origin.history,
            record.accepted_generation,
            record.applied_generation,
            f"{record.digest:016x}",
            record.host_maps,
            int(record.forgetting),
        )
        row = self._connection.execute(
            "INSERT INTO subnet (subnet, cidr, region, cluster, history, accepted_generation, applied_generation,"
            " digest, host_maps, forgetting) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (subnet) DO UPDATE SET cidr = excluded.cidr, region = excluded.region,"
            " cluster = excluded.cluster, history = excluded.history,"
            " accepted_generation = excluded.accepted_generation,"
            " applied_generation = excluded.applied_generation, digest = excluded.digest,"
            " host_maps = excluded.host_maps, forgetting = excluded.forgetting RETURNING key",
            (record.subnet, *values),
        ).fetchall()
        return int(row[0][0])

    def delete_record(self, key: int) -> None:
        """Drop a subnet and its host maps."""
        self.delete_maps(key)
        self._connection.execute("DELETE FROM subnet WHERE key = ?", (key,))

    # ---- host maps ----

    def host_map(self, key: int, identifier: Identifier) -> HostMap | None:
        row = self._connection.execute(
            "SELECT kind, identifier, address, hostname FROM host_map"
            " WHERE subnet_key = ? AND kind = ? AND identifier = ?",
            (key, *_identifier_row(identifier)),
        ).fetchone()
        return None if row is None else _host_map(row)

    def host_maps(self, key: int) -> Iterator[HostMap]:
        """One subnet's set, in no particular order."""
        rows = self._connection.execute(
            "SELECT kind, identifier, address, hostname FROM host_map WHERE subnet_key = ?", (key,)
        )
        return map(_host_map, rows)

    def page(self, key: int, after: Identifier | None, limit: int) -> list[HostMap]:
        """The first of one subnet's host maps after that identifier, in the table's order."""
        kind, value = (-1, b"") if after is None else _identifier_row(after)
        rows = self._connection.execute(
            "SELECT kind, identifier, address, hostname FROM host_map"
            " WHERE subnet_key = ? AND (kind, identifier) > (?, ?) ORDER BY kind, identifier LIMIT ?",
            (key, kind, value, limit),
        )
        return [_host_map(row) for row in rows]

    def write_changes(self, key: int, changes: Iterable[MapChange]) -> None:
        for change in changes:
            if change.before is not None and (change.after is None or change.after.address != change.before.address):
                self._connection.execute(f"{_FORMER} VALUES (?, ?, ?)", _lease_row(change.before))
            if change.after is None:
                self._connection.execute(
                    "DELETE FROM host_map WHERE subnet_key = ? AND kind = ? AND identifier = ?",
                    (key, *_identifier_row(change.identifier)),
                )
            else:
                self._connection.execute(
                    "INSERT OR REPLACE INTO host_map VALUES (?, ?, ?, ?, ?)", (key, *_map_row(change.after))
                )
                self.drop_former_leases((change.after,))

    def delete_maps(self, key: int) -> None:
        self._connection.execute(_FORMER_OF_SUBNET, (key,))
        self._connection.execute("DELETE FROM host_map WHERE subnet_key = ?", (key,))

    # ---- leases that may be left ----

    def former_leases(self, after: HostMap | None = None) -> Iterator[HostMap]:
        """Host maps that were held once, without their names, in the table's order; only those after that one."""
        rows = self._connection.execute(
            "SELECT kind, identifier, address, NULL FROM former_lease WHERE (kind, identifier, address) > (?, ?, ?)"
            " ORDER BY kind, identifier, address",
            (-1, b"", "") if after is None else _lease_row(after),
        )
        return map(_host_map, rows)

    def former_leases_of_held(self, key: int) -> list[HostMap]:
        """Those of host maps that a subnet has now."""
        rows = self._connection.execute(
            "SELECT kind, identifier, address, NULL FROM former_lease f WHERE EXISTS (SELECT 1 FROM host_map m"
            " WHERE m.subnet_key = ? AND m.kind = f.kind AND m.identifier = f.identifier AND m.address = f.address)",
            (key,),
        )
        return [_host_map(row) for row in rows]

    def drop_former_leases(self, ended: Iterable[HostMap]) -> None:
        self._connection.executemany(
            "DELETE FROM former_lease WHERE kind = ? AND identifier = ? AND address = ?", map(_lease_row, ended)
        )

    # ---- transfers ----

    def stage(self, transfer: int, upserts: Iterable[HostMap], removals: Iterable[Identifier]) -> None:
        """Add rows to a transfer; a row for an identifier replaces the earlier one."""
        statement = "INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?)"
        removed = ((transfer, *_identifier_row(identifier), None, None) for identifier in removals)
        self._connection.executemany(statement, removed)
        self._connection.executemany(statement, ((transfer, *_map_row(host_map)) for host_map in upserts))

    def count_staged(self, transfer: int) -> int:
        return int(
            self._connection.execute("SELECT count(*) FROM staged WHERE transfer = ?", (transfer,)).fetchone()[0]
        )

    def drop_staged(self, transfer: int) -> None:
        self._connection.execute("DELETE FROM staged WHERE transfer = ?", (transfer,))

    def staged_changes(self, transfer: int, key: int, whole_set: bool) -> Iterator[MapChange]:
        """What the transfer changes; as the `whole_set` it also removes what it does not name."""
        rows = self._connection.execute(
            "SELECT s.kind, s.identifier, m.address, m.hostname, s.address, s.hostname" + _STAGED_CHANGES,
            (key, transfer),
        )
        for kind, identifier, old_address, old_hostname, address, hostname in rows:
            yield MapChange(
                Identifier(_KINDS[kind], identifier),
                None if old_address is None else _host_map((kind, identifier, old_address, old_hostname)),
                None if address is None else _host_map((kind, identifier, address, hostname)),
            )
        if whole_set:
            gone = self._connection.execute("SELECT kind, identifier, address, hostname" + _NOT_STAGED, (key, transfer))
            for host_map in map(_host_map, gone):
                yield MapChange(host_map.identifier, host_map, None)

    def write_staged(self, transfer: int, key: int, whole_set: bool) -> None:
        """Write what `staged_changes` tells, and nothing that stays as it is."""
        self._connection.execute(
            f"{_FORMER} SELECT m.kind, m.identifier, m.address{_STAGED_CHANGES} AND s.address IS NOT m.address"
            " AND m.address IS NOT NULL",
            (key, transfer),
        )
        if whole_set:
            self._connection.execute(f"{_FORMER} SELECT kind, identifier, address{_NOT_STAGED}", (key, transfer))
            self._connection.execute("DELETE" + _NOT_STAGED, (key, transfer))
        else:
            self._connection.execute(
                "DELETE FROM host_map WHERE subnet_key = ? AND (kind, identifier) IN"
                " (SELECT kind, identifier FROM staged WHERE transfer = ? AND address IS NULL)",
                (key, transfer),
            )
        self._connection.execute(
            "INSERT OR REPLACE INTO host_map SELECT ?, s.kind, s.identifier, s.address, s.hostname"
            + _STAGED_CHANGES
            + " AND s.address IS NOT NULL",
            (key, key, transfer),
        )
        self._connection.execute(
            "DELETE FROM former_lease WHERE EXISTS (SELECT 1 FROM staged s WHERE s.transfer = ?"
            " AND s.kind = former_lease.kind AND s.identifier = former_lease.identifier"
            " AND s.address = former_lease.address)",
            (transfer,),
        )


def _record(row: tuple[int, str, str, str, str, str, int, int, str, int, int]) -> tuple[int, SubnetRecord]:
    key, subnet, cidr, region, cluster, history, accepted, applied, digest, host_maps, forgetting = row
    return key, SubnetRecord(
        subnet=subnet,
        cidr=cidr,
        origin=Origin(region, cluster, history),
        accepted_generation=accepted,
        applied_generation=applied,
        digest=int(digest, 16),
        host_maps=host_maps,
        forgetting=bool(forgetting),
    )


def _identifier_row(identifier: Identifier) -> tuple[int, bytes]:
    return KIND_CODES[identifier.kind], identifier.value


def _lease_row(host_map: HostMap) -> tuple[int, bytes, str]:
    return (*_identifier_row(host_map.identifier), host_map.address)


def _map_row(host_map: HostMap) -> Row:
    return (*_identifier_row(host_map.identifier), host_map.address, host_map.hostname)


def _host_map(row: Row) -> HostMap:
    kind, identifier, address, hostname = row
    return HostMap(Identifier(_KINDS[kind], identifier), address, hostname)
