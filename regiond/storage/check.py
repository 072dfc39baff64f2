"""Does what is stored of a subnet contradict itself? Looked at online, in one snapshot and without a lock.

What has to hold: reservations (releasing ones too), ranges, infrastructure and free ranges tile what is usable exactly;
host maps are those of the active reservations; the digest and the counts are those of the rows.
"""

from collections.abc import Callable
from typing import Final

from clusterd.protocol.addresses import address_to_int
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.networks import Network, network
from regiond.domain.views import CheckReport, Finding
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, once, rebuild_free_ranges, write_audit
from regiond.storage.connection import Row
from regiond.storage.pool import Pool, Session

MAX_OF_A_KIND: Final = 100
CHECK_DEADLINE_SECONDS: Final = 600.0

_SUBNET: Final = """
SELECT s.cidr::text, v.name, s.generation, s.digest, host_map_digest(s.id),
       (SELECT count(*) FROM reservation r WHERE r.subnet = s.id),
       (SELECT count(*) FROM host_map m WHERE m.subnet = s.id AND NOT m.removed),
       (SELECT count(*) FROM free_range f WHERE f.subnet = s.id)
FROM subnet s JOIN vrf v ON v.id = s.vrf WHERE s.id = %(subnet)s
"""

# What is free by the index and what should be differ only where whole rows differ. The gaps between two sets of
# closed spans are open: step inside, as expected_free_ranges() does.
_FREE_SPACE: Final = """
WITH expected AS MATERIALIZED (SELECT low, high FROM expected_free_ranges(%(subnet)s)),
actual AS MATERIALIZED (SELECT low, high FROM free_range WHERE subnet = %(subnet)s),
only_expected AS (SELECT * FROM expected EXCEPT SELECT * FROM actual),
only_actual AS (SELECT * FROM actual EXCEPT SELECT * FROM expected),
sides AS (
    SELECT coalesce((SELECT range_agg(inetrange(low, high, '[]')) FROM only_expected), '{}') AS wanted,
           coalesce((SELECT range_agg(inetrange(low, high, '[]')) FROM only_actual), '{}') AS found
), spans AS (
    SELECT 'missing' AS kind, unnest(wanted - found) AS span FROM sides
    UNION ALL SELECT 'surplus', unnest(found - wanted) FROM sides
), bound AS (
    SELECT kind, CASE WHEN lower_inc(span) THEN lower(span) ELSE lower(span) + 1 END AS low,
           CASE WHEN upper_inc(span) THEN upper(span) ELSE upper(span) - 1 END AS high
    FROM spans
), wrong AS (
    SELECT kind, low, high FROM bound WHERE low <= high
    UNION ALL
    SELECT 'untidy', low, high FROM only_actual
    WHERE NOT EXISTS (SELECT FROM bound WHERE bound.low <= bound.high)
)
SELECT kind, host(low), host(high), CASE WHEN kind = 'surplus' THEN (
        SELECT r.id FROM reservation r WHERE r.subnet = %(subnet)s AND r.address BETWEEN low AND high
        ORDER BY r.address LIMIT 1) END,
       CASE WHEN kind = 'surplus' THEN (
        SELECT g.kind FROM (SELECT kind, low, high FROM address_range WHERE subnet = %(subnet)s
            UNION ALL SELECT 'reported dynamic', low, high FROM reported_range WHERE subnet = %(subnet)s) g
        WHERE g.low <= wrong.high AND wrong.low <= g.high LIMIT 1) END,
       EXISTS (SELECT FROM expected e WHERE e.low <= wrong.low AND wrong.high <= e.high),
       count(*) OVER ()
FROM wrong ORDER BY kind, low LIMIT %(most)s
"""

# A second opinion that does not share a line with expected_free_ranges(): the numbers have to add up.
_OCCUPIED: Final = """
WITH usable AS (SELECT first_usable AS low, last_usable AS high FROM subnet WHERE id = %(subnet)s),
ranges AS (SELECT low, high FROM address_range WHERE subnet = %(subnet)s
           UNION ALL SELECT low, high FROM reported_range WHERE subnet = %(subnet)s),
spans AS (SELECT unnest(range_agg(inetrange(greatest(g.low, u.low), least(g.high, u.high), '[]'))) AS span
          FROM ranges g, usable u WHERE g.low <= u.high AND u.low <= g.high),
excluded AS (SELECT lower(span) AS low, upper(span) AS high FROM spans),
single AS (SELECT address FROM infrastructure_address WHERE subnet = %(subnet)s
           UNION SELECT address FROM reported_entry WHERE subnet = %(subnet)s
           UNION SELECT address FROM address_in_use WHERE subnet = %(subnet)s),
own AS (SELECT i.address FROM single i, usable u
        WHERE i.address BETWEEN u.low AND u.high
          AND NOT EXISTS (SELECT FROM excluded e WHERE i.address BETWEEN e.low AND e.high)
          AND NOT EXISTS (SELECT FROM reservation r WHERE r.subnet = %(subnet)s AND r.address = i.address))
SELECT (SELECT coalesce(sum(span_size(low, high)), 0) FROM excluded)
     + (SELECT count(*) FROM own)
     + (SELECT count(*) FROM reservation r, usable u
        WHERE r.subnet = %(subnet)s AND r.address BETWEEN u.low AND u.high)
     - (SELECT count(*) FROM excluded e JOIN reservation r
        ON r.subnet = %(subnet)s AND r.address BETWEEN e.low AND e.high),
       (SELECT coalesce(sum(span_size(low, high)), 0) FROM free_range WHERE subnet = %(subnet)s)
"""

_OUTSIDE: Final = """
SELECT r.id, host(r.address), count(*) OVER () FROM reservation r JOIN subnet s ON s.id = r.subnet
WHERE r.subnet = %(subnet)s AND NOT (r.address BETWEEN s.first_usable AND s.last_usable)
ORDER BY r.address LIMIT %(most)s
"""
_RANGES_OUTSIDE: Final = """
SELECT g.id, host(g.low), host(g.high), count(*) OVER () FROM address_range g JOIN subnet s ON s.id = g.subnet
WHERE g.subnet = %(subnet)s AND NOT (g.low <<= s.cidr AND g.high <<= s.cidr) ORDER BY g.low LIMIT %(most)s
"""
_ON_INFRASTRUCTURE: Final = """
SELECT r.id, host(r.address), i.kind, c.name, count(*) OVER ()
FROM infrastructure_address i JOIN reservation r ON r.subnet = i.subnet AND r.address = i.address
JOIN cluster c ON c.id = i.cluster WHERE i.subnet = %(subnet)s ORDER BY r.address LIMIT %(most)s
"""
_NEVER_FREE: Final = """
SELECT r.id, host(r.address), count(*) OVER () FROM reservation r
WHERE r.subnet = %(subnet)s AND r.status = 'releasing'
  AND (r.confirmed_at IS NULL AND r.release_generation IS NULL OR r.confirmed_at IS NOT NULL AND r.free_at IS NULL)
ORDER BY r.address LIMIT %(most)s
"""

# Identifiers are compared as text, so that no damage to them can make the question itself fail.
_WANTED_MAPS: Final = """
SELECT r.id, r.address, r.hostname, i.kind, replace(i.value, ':', '') AS identifier
FROM reservation r CROSS JOIN LATERAL (
    SELECT 'mac' AS kind, unnest(r.macs) AS value
    UNION ALL SELECT 'client-id', r.client_id WHERE r.client_id IS NOT NULL
    UNION ALL SELECT 'duid', r.duid WHERE r.duid IS NOT NULL) i
WHERE r.subnet = %(subnet)s AND r.status = 'active' AND r.map_generation IS NOT NULL
"""
_FOUND_MAPS: Final = """
SELECT m.reservation, m.address, m.hostname, m.kind, encode(m.identifier, 'hex') FROM host_map m
WHERE m.subnet = %(subnet)s AND NOT m.removed
"""
_MAPS_MISSING: Final = f"""
SELECT id, host(address), kind, identifier, count(*) OVER () FROM (
    SELECT * FROM ({_WANTED_MAPS}) wanted EXCEPT SELECT * FROM ({_FOUND_MAPS}) found) missing
ORDER BY address, kind, identifier LIMIT %(most)s
"""  # noqa: S608 (constants only)
_MAPS_SURPLUS: Final = f"""
SELECT m.reservation, host(m.address), m.kind, m.identifier, r.status, count(*) OVER () FROM (
    SELECT * FROM ({_FOUND_MAPS}) found(reservation, address, hostname, kind, identifier)
    EXCEPT SELECT * FROM ({_WANTED_MAPS}) wanted) m
LEFT JOIN reservation r ON r.id = m.reservation
ORDER BY m.address, m.kind, m.identifier LIMIT %(most)s
"""  # noqa: S608 (constants only)

_AHEAD: Final = """
SELECT what, generation, count(*) OVER () FROM (
    SELECT 'the host map of ' || m.kind || ' ' || encode(m.identifier, 'hex') AS what, m.generation
    FROM host_map m WHERE m.subnet = %(subnet)s
    UNION ALL
    SELECT 'cluster ' || c.name, d.applied_generation
    FROM delivery d JOIN cluster c ON c.id = d.cluster WHERE d.subnet = %(subnet)s) known
WHERE generation > (SELECT generation FROM subnet WHERE id = %(subnet)s) ORDER BY what LIMIT %(most)s
"""
_COUNTS: Final = """
SELECT a.name, coalesce(kept.reservations, 0), coalesce(counted.reservations, 0), count(*) OVER ()
FROM (SELECT account, reservations FROM reservation_count WHERE subnet = %(subnet)s) kept
FULL JOIN (SELECT owner AS account, count(*) AS reservations FROM reservation
           WHERE subnet = %(subnet)s AND kind = 'user' GROUP BY owner) counted USING (account)
JOIN account a ON a.id = account
WHERE coalesce(kept.reservations, 0) <> coalesce(counted.reservations, 0) ORDER BY a.name LIMIT %(most)s
"""

_RECOUNT: Final = """
DELETE FROM reservation_count WHERE subnet = %(subnet)s;
INSERT INTO reservation_count (account, subnet, reservations)
SELECT owner, subnet, count(*) FROM reservation WHERE subnet = %(subnet)s AND kind = 'user' GROUP BY owner, subnet
"""


class SubnetChecks:
    """Checks a subnet, and rebuilds what can be computed from the rest."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def check(self, subnet: int) -> CheckReport:
        """Raises NotFound."""

        async def look(session: Session) -> CheckReport:
            await session.run(
                f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{CHECK_DEADLINE_SECONDS:.0f}s'"
            )
            rows = await session.run(_SUBNET, {"subnet": subnet})
            if not rows:
                raise errors.NotFound(f"there is no subnet {format_id(Prefix.SUBNET, subnet)}")
            cidr, vrf, generation, digest, right_digest, reservations, host_maps, free_ranges = rows[0]
            findings = []
            if digest != right_digest:
                findings.append(
                    Finding("digest-wrong", f"the digest of generation {generation} is not that of its host maps")
                )
            for question, tell in _QUESTIONS:
                rows = await session.run(question, {"subnet": subnet, "most": MAX_OF_A_KIND})
                findings += [tell(row) for row in rows]
                if rows and rows[0][-1] > len(rows):
                    findings.append(Finding(findings[-1].kind, f"and {rows[0][-1] - len(rows)} more of these"))
            findings += await _sums(session, subnet, network(cidr))
            return CheckReport(subnet, cidr, vrf, reservations, host_maps, free_ranges, tuple(findings))

        return await self._pool.transaction(
            look, retry=True, isolation="REPEATABLE READ", deadline=CHECK_DEADLINE_SECONDS
        )

    async def repair(self, change: Change, subnet: int) -> None:
        """Rebuild the free ranges, and the counts of user reservations, from the other rows. Raises NotFound."""

        async def rebuild(session: Session) -> int:
            if not await session.run("SELECT FROM subnet WHERE id = %s", (subnet,)):
                raise errors.NotFound(f"there is no subnet {format_id(Prefix.SUBNET, subnet)}")
            changed = await rebuild_free_ranges(session, subnet)
            await session.run(_RECOUNT, {"subnet": subnet})
            after = {"free_ranges_changed": changed}
            await write_audit(session, change, "subnet.repair", format_id(Prefix.SUBNET, subnet), None, after)
            return subnet

        await once(self._pool, change, rebuild, subnet=subnet, deadline=LONG_DEADLINE_SECONDS)


async def _sums(session: Session, subnet: int, net: Network) -> list[Finding]:
    ((occupied, free),) = await session.run(_OCCUPIED, {"subnet": subnet})
    usable = net.last_usable - net.first_usable + 1
    if int(occupied) + int(free) == usable:
        return []
    told = f"{int(occupied)} occupied and {int(free)} free addresses are not the {usable} usable ones"
    return [Finding("numbers-wrong", told)]


# ---- rows as sentences ----


def _free_space(row: Row) -> Finding:
    kind, low, high, reservation, excluded_by, really_free, _ = row
    span = _span(low, high)
    if kind == "missing":
        return Finding("never-allocated", f"{span} would never be allocated: not free, and not taken by anything")
    if kind == "untidy" or really_free:
        return Finding("free-range-untidy", f"the free range {span} touches or overlaps another one")
    if reservation is not None:
        return Finding("free-but-taken", f"{span} counts as free, but reservation {_rs(reservation)} is there")
    if excluded_by is not None:
        return Finding("free-but-taken", f"{span} counts as free, but lies in a {excluded_by} range")
    return Finding(
        "free-but-taken",
        f"{span} counts as free, but is infrastructure, a DHCP server's static entry, not usable or outside the subnet",
    )


def _outside(row: Row) -> Finding:
    return Finding("outside-subnet", f"reservation {_rs(row[0])} has {row[1]}, which the subnet cannot give")


def _range_outside(row: Row) -> Finding:
    return Finding("outside-subnet", f"range {format_id(Prefix.ADDRESS_RANGE, row[0])} is {_span(row[1], row[2])}")


def _on_infrastructure(row: Row) -> Finding:
    owner = f"the {row[2]} that cluster {row[3]} reports"
    return Finding("taken-by-infrastructure", f"{row[1]} of reservation {_rs(row[0])} is also {owner}")


def _never_free(row: Row) -> Finding:
    told = f"{row[1]} of the releasing reservation {_rs(row[0])} never becomes free by itself: release it with force"
    return Finding("never-free", told)


def _map_missing(row: Row) -> Finding:
    return Finding(
        "host-map-missing", f"reservation {_rs(row[0])} has no host map from {row[2]} {_octets(row[3])} to {row[1]}"
    )


def _map_surplus(row: Row) -> Finding:
    reservation, address, kind, identifier, status, _ = row
    why = {None: "that reservation is gone", "releasing": "that reservation is releasing"}
    reason = why.get(status, "that is not what the reservation says")
    told = f"host map from {kind} {_octets(identifier)} to {address} for {_rs(reservation)}: {reason}"
    return Finding("host-map-surplus", told)


def _ahead(row: Row) -> Finding:
    return Finding("generation-ahead", f"{row[0]} is at generation {row[1]}, which the subnet has not reached")


def _count(row: Row) -> Finding:
    return Finding("count-wrong", f"{row[1]} user reservations of account {row[0]} are counted, there are {row[2]}")


_QUESTIONS: Final[tuple[tuple[str, Callable[[Row], Finding]], ...]] = (
    (_FREE_SPACE, _free_space),
    (_OUTSIDE, _outside),
    (_RANGES_OUTSIDE, _range_outside),
    (_ON_INFRASTRUCTURE, _on_infrastructure),
    (_NEVER_FREE, _never_free),
    (_MAPS_MISSING, _map_missing),
    (_MAPS_SURPLUS, _map_surplus),
    (_AHEAD, _ahead),
    (_COUNTS, _count),
)


def _rs(reservation: int) -> str:
    return format_id(Prefix.RESERVATION, reservation)


def _span(low: str, high: str) -> str:
    if low == high:
        return low
    count = address_to_int(high)[1] - address_to_int(low)[1] + 1
    return f"{low} to {high} ({count} addresses)"


def _octets(digits: str) -> str:
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))
