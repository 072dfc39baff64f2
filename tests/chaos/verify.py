"""The comparison at the end: what clients were told, what the reader was given, and what the database has."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.ids import Prefix, format_id
from tests.chaos.ledger import Ledger
from tests.chaos.observer import generation_violations
from tests.chaos.postgres import Database

MOST_NAMED = 5


def violations(ledger: Ledger, server: Database) -> list[str]:
    """Everything that is not as it was promised; empty when all is well."""
    found = list(ledger.violations)
    found += [
        f"never settled: {request.method} {request.path} under {request.key}, {request.attempts} attempts"
        for request in ledger.unsettled
    ]
    found += _reservation_violations(ledger, server)
    found += _audit_violations(ledger, server)
    found += _key_violations(ledger, server)
    found += _overlaps(ledger)
    found += _subnet_violations(server)
    found += generation_violations(server)
    return found


def _reservation_violations(ledger: Ledger, server: Database) -> list[str]:
    """Every acknowledged claim is there once, unless its release was acknowledged; nothing else is there."""
    live = ledger.live()
    kept = {
        format_id(Prefix.RESERVATION, id_): (cidr, address)
        for id_, cidr, address in server.query(
            "SELECT r.id, s.cidr::text, host(r.address) FROM reservation r JOIN subnet s ON s.id = r.subnet"
            " WHERE r.status = 'active'"
        )
    }
    found = _named("acknowledged claims are lost", live.keys() - kept.keys())
    found += _named("reservations that nobody was told of, or that were released", kept.keys() - live.keys())
    found += _named(
        "reservations are not what was answered",
        [r for r in live.keys() & kept.keys() if kept[r] != (live[r][0].cidr, live[r][1])],
    )
    addresses = [(claimed.cidr, address) for claimed, address in live.values()]
    found += _named("addresses were given twice", [each for each in set(addresses) if addresses.count(each) > 1])
    wanted = {
        (claimed.cidr, Identifier.mac(mac).value, reservation, address)
        for reservation, (claimed, address) in live.items()
        for mac in claimed.identifiers
    }
    maps = {
        (cidr, bytes(identifier), format_id(Prefix.RESERVATION, id_), address)
        for cidr, identifier, id_, address in server.query(
            "SELECT s.cidr::text, m.identifier, m.reservation, host(m.address)"
            " FROM host_map m JOIN subnet s ON s.id = m.subnet WHERE NOT m.removed"
        )
    }
    found += _named("host maps are missing", wanted - maps)
    found += _named("host maps that nobody claimed", maps - wanted)
    (orphans,) = server.query(
        "SELECT count(*) FROM device d WHERE NOT EXISTS (SELECT FROM reservation r WHERE r.device = d.id)"
    )
    if orphans[0]:
        found.append(f"{orphans[0]} devices have no reservation")
    return found


def _audit_violations(ledger: Ledger, server: Database) -> list[str]:
    """Each acknowledged claim and release is in the audit exactly once, as the request that it was; nothing more is."""
    noted: dict[str, list[str]] = defaultdict(list)
    for action, request in server.query("SELECT action, request_id FROM audit WHERE request_id LIKE 'chaos-%'"):
        noted[action.replace("force-release", "release")].append(request)
    claims = [claimed.claim for claimed in ledger.claims]
    releases = {r.key: r for claimed in ledger.claims for r in claimed.releases.values() if r.acknowledged is not None}
    return [
        f"the audit has {len(noted[action])} times {action}, in {len(set(noted[action]))} requests; clients {len(told)}"
        for action, told in (("reservation.claim", claims), ("reservation.release", releases.values()))
        if sorted(noted[action]) != sorted(f"chaos-{request.key}" for request in told)
    ]


def _key_violations(ledger: Ledger, server: Database) -> list[str]:
    """Every acknowledged request's key is kept, once."""
    kept = {key for (key,) in server.query("SELECT key FROM idempotency WHERE key ~ '^[0-9]+-[0-9]+$'")}
    told = {claim.claim.key for claim in ledger.claims}
    told |= {r.key for claim in ledger.claims for r in claim.releases.values() if r.acknowledged is not None}
    return _named("keys of acknowledged requests are lost", told - kept) + _named(
        "keys of requests that were not acknowledged", kept - told
    )


def _overlaps(ledger: Ledger) -> list[str]:
    """At no time two clients were sure of the same address."""
    sure: dict[tuple[str, str], list[tuple[float, float, str]]] = defaultdict(list)
    for claimed in ledger.claims:
        assert claimed.claim.acknowledged is not None
        for reservation, address in claimed.claim.reservations:
            release = claimed.releases.get(reservation)
            end = float("inf") if release is None else release.sent
            sure[claimed.cidr, address].append((claimed.claim.acknowledged, end, reservation))
    found = []
    for place, times in sure.items():
        times.sort()
        for (_, end, one), (begin, _, other) in pairwise(times):
            if begin < end:
                found.append(f"{place}: {one} and {other} at the same time")
    return found[:MOST_NAMED]


def _subnet_violations(server: Database) -> list[str]:
    """Tiling and digest, recomputed by the database from the rows."""
    found = []
    for cidr, tiles, digest in server.query(
        """SELECT s.cidr::text,
               (SELECT coalesce(array_agg((host(low), host(high)) ORDER BY high), '{}')
                FROM free_range WHERE subnet = s.id)
             = (SELECT coalesce(array_agg((host(low), host(high)) ORDER BY high), '{}')
                FROM expected_free_ranges(s.id)),
               s.digest = host_map_digest(s.id)
           FROM subnet s"""
    ):
        if not tiles:
            found.append(f"{cidr}: reservations, ranges and free ranges do not tile it")
        if not digest:
            found.append(f"{cidr}: the digest that was kept is not that of its host maps")
    return found


def feed_violations(maps: Mapping[int, Mapping[Identifier, HostMap]], server: Database) -> list[str]:
    """The replayed change feed equals the table."""
    table: dict[int, dict[Identifier, HostMap]] = {subnet: {} for subnet in maps}
    for subnet, kind, value, address, hostname in server.query(
        "SELECT subnet, kind, identifier, host(address), hostname FROM host_map WHERE NOT removed"
    ):
        identifier = Identifier(IdentifierKind(kind), bytes(value))
        table.setdefault(subnet, {})[identifier] = HostMap(identifier, address, hostname)
    return [f"subnet {s}: the replayed feed is not the table" for s in table if table[s] != maps.get(s)]


def _named(what: str, things: Iterable[Any]) -> list[str]:
    known: Sequence[Any] = sorted(things)
    return [f"{len(known)} {what}: {', '.join(map(str, known[:MOST_NAMED]))}"] if known else []
