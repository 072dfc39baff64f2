"""The index of free space after a part of a subnet was recomputed is what it is after all of it was."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.regiond.storage.region import TILES

NETWORKS = (
    "0.0.0.0/28",
    "255.255.255.240/28",
    "192.0.2.0/31",
    "2001:db8::/124",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124",
)
OFFSETS = st.integers(0, 15)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), OFFSETS, OFFSETS),
        st.tuples(st.just("free"), OFFSETS, OFFSETS),
        st.tuples(st.just("add range"), OFFSETS, OFFSETS),
        st.tuples(st.just("remove range"), OFFSETS, OFFSETS),
    ),
    max_size=12,
)


@pytest.fixture
def cursor(database: str) -> Iterator[Any]:
    connection = psycopg2.connect(database)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO account (id, name, role) VALUES (1, 'tester', 'admin')")
        connection.commit()
        yield cursor
    connection.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cidr=st.sampled_from(NETWORKS), changes=CHANGES)
def test_a_part_is_recomputed_as_the_whole_is(cursor: Any, cidr: str, changes: list[tuple[str, int, int]]) -> None:
    cursor.connection.rollback()
    net = ip_network(cidr)
    inner = (1, -2) if net.version == 4 and net.num_addresses > 2 else (1, -1) if net.version == 6 else (0, -1)
    cursor.execute(
        "INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable) VALUES (1, 1, %s, %s, %s)",
        (cidr, str(net[inner[0]]), str(net[inner[1]])),
    )
    cursor.execute("SELECT rebuild_free_ranges(1)")
    for number, (what, one, other) in enumerate(changes):
        low, high = (str(net[min(offset, net.num_addresses - 1)]) for offset in sorted((one, other)))
        if what == "reserve":
            cursor.execute(
                """INSERT INTO reservation (subnet, address, id, kind, status, owner, macs)
                   SELECT 1, a, %s, 'user', 'active', 1, '{}' FROM (VALUES (%s::inet)) v(a) ON CONFLICT DO NOTHING""",
                (number, low),
            )
            high = low
        elif what == "free":
            cursor.execute("DELETE FROM reservation WHERE subnet = 1 AND address BETWEEN %s AND %s", (low, high))
        elif what == "add range":
            cursor.execute(
                """INSERT INTO address_range (id, subnet, kind, low, high) SELECT %s, 1, 'reserved', %s, %s
                   WHERE NOT EXISTS (SELECT FROM address_range
                                     WHERE subnet = 1 AND inetrange(low, high, '[]') && inetrange(%s, %s, '[]'))""",
                (number, low, high, low, high),
            )
        else:
            cursor.execute(
                """DELETE FROM address_range WHERE subnet = 1 AND low <= %s AND high >= %s
                   RETURNING host(low), host(high)""",
                (low, low),
            )
            for bounds in cursor.fetchall():
                low, high = bounds
        cursor.execute("SELECT rebuild_free_ranges(1, %s, %s)", (low, high))
        cursor.execute(TILES, (1, 1))
        assert cursor.fetchone() == (True,), (what, low, high)


def test_a_range_in_a_crowded_subnet_costs_what_lies_in_it(cursor: Any) -> None:
    cursor.execute(
        """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable)
           VALUES (1, 1, '10.0.0.0/8', '10.0.0.1', '10.255.255.254')"""
    )
    cursor.execute(
        """INSERT INTO reservation (subnet, address, id, kind, status, owner, macs)
           SELECT 1, '10.0.0.0'::inet + 2 * n, n, 'user', 'active', 1, '{}' FROM generate_series(1, 50000) n"""
    )
    cursor.execute("SELECT rebuild_free_ranges(1)")
    assert cursor.fetchone() == (50_001,)
    cursor.execute("ANALYZE reservation, free_range")
    cursor.execute(
        "INSERT INTO address_range (id, subnet, kind, low, high) VALUES (1, 1, 'reserved', '10.0.16.0', '10.0.16.99')"
    )
    before = _rows_read(cursor)
    cursor.execute("SELECT rebuild_free_ranges(1, '10.0.16.0', '10.0.16.99')")
    assert cursor.fetchone() == (50,)
    assert _rows_read(cursor) - before < 2000


def _rows_read(cursor: Any) -> int:
    """Of reservations and free ranges, in this transaction."""
    cursor.execute(
        """SELECT sum(pg_stat_get_xact_tuples_returned(c) + pg_stat_get_xact_tuples_fetched(c)
                      + (SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0) FROM pg_index i
                         WHERE i.indrelid = c))
           FROM unnest(ARRAY['reservation'::regclass::oid, 'free_range'::regclass::oid]) c"""
    )
    return int(cursor.fetchone()[0])
