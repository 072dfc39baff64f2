"""Kea's hosts table in PostgreSQL: its rows read and changed. Everything here blocks: it is called in a thread.

Schema: `dhcpdb_create.pgsql` of Kea, versions 6.2 (2.0) and later. A row of `hosts` is one client in one IPv4 subnet,
one IPv6 subnet, or both; ours have one of the two. IPv6 addresses stand in `ipv6_reservations`, as text or, in later
schemas, as `inet`. What is ours says so in `user_context`.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

from psycopg2 import extensions

from clusterd.dhcp.kea.reservations import OWNER_TEXT
from clusterd.dhcp.kea.rows import TYPE_OF_KIND, Placed, Row
from clusterd.protocol.addresses import Family, address_to_int, canonical_address, int_to_address

T = TypeVar("T")

PAGE = 5_000
_ADDRESS = 0  # of `type` in ipv6_reservations: an address; 2 is a delegated prefix
_KEYS = "unnest(%(identifiers)s::text[], %(types)s::smallint[], %(subnets)s::bigint[]) AS k(identifier, type, subnet)"


class HostsTable:
    """The rows of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._subnet = f"dhcp{family}_subnet_id"
        joined = "" if family == 4 else " LEFT JOIN ipv6_reservations r ON r.host_id = h.host_id"
        address = "h.ipv4_address" if family == 4 else "host(r.address::inet)"
        self._select = (
            f"SELECT h.host_id, h.{self._subnet}, h.dhcp_identifier_type, "  # noqa: S608 (constants only)
            f"h.dhcp_identifier, {address}, h.hostname, "
            f"coalesce(h.user_context = %(owner)s, false) FROM hosts h{joined}"
        )

    def lock(self, cursor: extensions.cursor) -> None:
        """Keep other writers away until the transaction ends; Kea, which reads, is not held up."""
        cursor.execute("LOCK TABLE hosts IN SHARE ROW EXCLUSIVE MODE")

    def expect_few(self, cursor: extensions.cursor) -> None:
        """Have the few rows that are wanted looked up by index, also before PostgreSQL has counted what there is."""
        cursor.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
        )

    def try_out(self, cursor: extensions.cursor) -> None:
        """Raise what PostgreSQL has against reading and writing. The caller rolls back."""
        self.lock(cursor)
        cursor.execute(
            "INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, user_context) VALUES ('hostmap', 0, %s) "
            "RETURNING host_id",
            (OWNER_TEXT,),
        )
        [(host_id,)] = cursor.fetchall()
        if self._family == 6:
            cursor.execute(
                "INSERT INTO ipv6_reservations (address, prefix_len, type, host_id) VALUES ('::1', 128, 0, %s)",
                (host_id,),
            )
        cursor.execute(f"{self._select} WHERE h.host_id = %(id)s", {"owner": OWNER_TEXT, "id": host_id})
        cursor.fetchall()
        self.delete(cursor, [host_id])

    def rows_in(self, cursor: extensions.cursor, subnets: Collection[int], *, ours_only: bool) -> Iterator[Row]:
        """All rows of these subnets, in pages: no answer is so long that it would hold anything up."""
        condition = " AND h.user_context = %(owner)s" if ours_only else ""
        last = 0
        while True:
            cursor.execute(
                f"{self._select} WHERE h.host_id > %(last)s AND h.{self._subnet} = ANY(%(subnets)s){condition} "
                f"ORDER BY h.host_id FETCH FIRST {PAGE} ROWS WITH TIES",
                {"owner": OWNER_TEXT, "last": last, "subnets": list(subnets)},
            )
            rows = cursor.fetchall()
            yield from map(self._row, rows)
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def foreign_rows(self, cursor: extensions.cursor) -> Iterator[Row]:
        """The rows of this family that are not ours, in whatever subnet or none, with the addresses that they give."""
        gives = "h.ipv4_address <> 0" if self._family == 4 else f"r.type = {_ADDRESS}"
        last = 0
        while True:
            cursor.execute(
                f"{self._select} WHERE h.host_id > %(last)s AND {gives} "
                "AND NOT coalesce(h.user_context = %(owner)s, false) "
                f"ORDER BY h.host_id FETCH FIRST {PAGE} ROWS WITH TIES",
                {"owner": OWNER_TEXT, "last": last},
            )
            rows = cursor.fetchall()
            yield from map(self._row, rows)
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def rows_with_identifiers(self, cursor: extensions.cursor, placed: Collection[Placed]) -> Iterator[Row]:
        """The rows that have these host maps' identifiers in their subnets."""
        for page in _pages(list(placed)):
            cursor.execute(
                f"{self._select} JOIN {_KEYS} ON h.dhcp_identifier = decode(k.identifier, 'hex') "
                f"AND h.dhcp_identifier_type = k.type AND h.{self._subnet} = k.subnet",
                {"owner": OWNER_TEXT, **_keys(page)},
            )
            yield from map(self._row, cursor.fetchall())

    def rows_touched_by(
        self, cursor: extensions.cursor, placed: Collection[Placed]
    ) -> dict[tuple[int, str | None], Row]:
        """The rows that have these host maps' identifiers or addresses in their subnets."""
        found = {(row.host_id, row.address): row for row in self.rows_with_identifiers(cursor, placed)}
        for page in _pages(list(placed)):
            cursor.execute(self._by_address(cursor), {"owner": OWNER_TEXT, **_addresses(self._family, page)})
            found.update({(row.host_id, row.address): row for row in map(self._row, cursor.fetchall())})
        return found

    def _by_address(self, cursor: extensions.cursor) -> str:
        if self._family == 4:
            return (
                f"{self._select} JOIN unnest(%(addresses)s::bigint[], %(subnets)s::bigint[]) AS k(address, subnet) "
                f"ON h.ipv4_address = k.address AND h.{self._subnet} = k.subnet"
            )
        return (
            f"{self._select} JOIN unnest(%(addresses)s::{self._address_type(cursor)}[], %(subnets)s::bigint[]) "
            f"AS k(address, subnet) ON r.address = k.address AND h.{self._subnet} = k.subnet"
        )

    def _address_type(self, cursor: extensions.cursor) -> str:
        cursor.execute(
            "SELECT atttypid::regtype::text FROM pg_attribute "
            "WHERE attrelid = 'ipv6_reservations'::regclass AND attname = 'address'"
        )
        [(name,)] = cursor.fetchall()
        return "inet" if name == "inet" else "text"

    def delete(self, cursor: extensions.cursor, host_ids: Collection[int]) -> None:
        """Delete rows, with what hangs on them."""
        for page in _pages(sorted(host_ids)):
            cursor.execute("DELETE FROM hosts WHERE host_id = ANY(%s)", (list(page),))

    def insert(self, cursor: extensions.cursor, placed: Sequence[Placed]) -> None:
        """Insert rows of ours. Their identifiers are not in their subnets yet."""
        statement = _INSERT_V4 if self._family == 4 else _INSERT_V6.format(type=self._address_type(cursor))
        for page in _pages(placed):
            names = [host_map.hostname for host_map, _ in page]
            arguments = {"owner": OWNER_TEXT, "names": names, **_keys(page), **_addresses(self._family, page)}
            cursor.execute(statement, arguments)

    def _row(self, columns: tuple[Any, ...]) -> Row:
        host_id, subnet_id, identifier_type, identifier, address, hostname, ours = columns
        if address is not None:
            address = int_to_address(4, address) if self._family == 4 else canonical_address(address)
        return Row(host_id, subnet_id, identifier_type, bytes(identifier), address, hostname, ours)


_INSERT_V4 = f"""
INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, dhcp4_subnet_id, ipv4_address, hostname, user_context)
SELECT decode(k.identifier, 'hex'), k.type, k.subnet, a.address, a.name, %(owner)s
FROM {_KEYS.replace("AS k(", "WITH ORDINALITY AS k(").replace("subnet)", "subnet, n)")}
JOIN unnest(%(addresses)s::bigint[], %(names)s::text[]) WITH ORDINALITY AS a(address, name, n) USING (n)
"""  # noqa: S608 (constants only)

_INSERT_V6 = f"""
WITH given AS (
    SELECT decode(k.identifier, 'hex') AS identifier, k.type, k.subnet, a.address, a.name
    FROM {_KEYS.replace("AS k(", "WITH ORDINALITY AS k(").replace("subnet)", "subnet, n)")}
    JOIN unnest(%(addresses)s::text[], %(names)s::text[]) WITH ORDINALITY AS a(address, name, n) USING (n)
), made AS (
    INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, dhcp6_subnet_id, hostname, user_context)
    SELECT identifier, type, subnet, name, %(owner)s FROM given
    RETURNING host_id, dhcp_identifier, dhcp_identifier_type, dhcp6_subnet_id
)
INSERT INTO ipv6_reservations (address, prefix_len, type, host_id)
SELECT given.address::{{type}}, 128, 0, made.host_id
FROM made JOIN given ON given.identifier = made.dhcp_identifier AND given.type = made.dhcp_identifier_type
    AND given.subnet = made.dhcp6_subnet_id
"""  # noqa: S608 (constants only)


def _pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + PAGE] for start in range(0, len(items), PAGE))


def _keys(placed: Sequence[Placed]) -> dict[str, list[Any]]:
    return {
        "identifiers": [host_map.identifier.value.hex() for host_map, _ in placed],
        "types": [TYPE_OF_KIND[host_map.identifier.kind] for host_map, _ in placed],
        "subnets": [subnet_id for _, subnet_id in placed],
    }


def _addresses(family: Family, placed: Sequence[Placed]) -> dict[str, list[Any]]:
    subnets = [subnet_id for _, subnet_id in placed]
    if family == 4:
        return {"addresses": [address_to_int(host_map.address)[1] for host_map, _ in placed], "subnets": subnets}
    return {"addresses": [host_map.address for host_map, _ in placed], "subnets": subnets}
