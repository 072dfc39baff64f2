"""Settling one recovering subnet, in one transaction under its lock: read candidates, decide, write, some at a time."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.mutations import Actor
from regiond.domain.recovery import Candidate, Finding, FindingKind, Occupant, Recovered, Settlement, settle
from regiond.storage.changes import Change, rebuild_free_ranges, write_audit
from regiond.storage.connection import Row
from regiond.storage.pool import Session

CHUNK: Final = 500

# Whether cluster c may have host maps of subnet s, as far as this database can know: what it was to have may have
# changed in the lost past, so a cluster that is there, or served the subnet once, may serve it now. Of a subnet that
# was made since the recovery began (it recovers since another moment than the region) the database knows nothing: any
# cluster may have served it.
MAY_HAVE: Final = """(EXISTS (SELECT FROM delivery d WHERE d.cluster = c.id AND d.subnet = s.id)
    OR EXISTS (SELECT FROM cluster_interface i WHERE i.cluster = c.id AND i.subnet = s.id AND i.present)
    OR s.recovering_since <> (SELECT g.recovering_since FROM region g))"""

# Since when a new subnet of the network `{cidr}` recovers: while the region does, clusters may serve it from the lost
# past, and what was handed up of a network that was none of the region's then is still to be settled.
RECOVERS: Final = """
CASE WHEN EXISTS (SELECT FROM region g WHERE g.recovering_since IS NOT NULL)
       OR EXISTS (SELECT FROM evidence e WHERE e.cidr = {cidr} AND NOT e.settled) THEN now() END
"""
LOCAL_ACCOUNT: Final = "local"
MAX_POSSIBLY_RELEASED: Final = 10_000

# An account's first use may be a recovery: it is the one of the region's own socket (see use_cases/accounts.py).
_OWNER: Final = "INSERT INTO account (id, name, role) VALUES (%s, %s, 'admin') ON CONFLICT (name) DO NOTHING"

# What is to be decided about: host maps of clusters that the region has not, or has otherwise, before anything of them
# is settled. Those that differ only after it are of reservations that stood: their addresses are held, or rest.
_MARK: Final = """
UPDATE evidence_map m SET undecided = true
FROM evidence e JOIN subnet s ON s.id = e.subnet
WHERE e.subnet = %s AND e.complete AND NOT e.settled AND m.cluster = e.cluster AND m.name = e.name
  AND m.address BETWEEN s.first_usable AND s.last_usable
  AND NOT EXISTS (SELECT FROM host_map h WHERE h.subnet = s.id AND h.kind = m.kind AND h.identifier = m.identifier
                  AND NOT h.removed AND h.address = m.address)
"""

# The newest state's first, one address together; and last the former ones.
_CANDIDATES: Final = """
SELECT e.cluster, c.name, m.kind, m.identifier, host(m.address), m.hostname, e.accepted_generation,
       e.accepted_generation = %(newest)s,
       host(h.address), h.removed, h.generation, h.reservation,
       r.id, r.kind, r.status = 'active', r.map_generation, r.created <= coalesce(s.fork_at, '-infinity'),
       EXISTS (SELECT FROM host_map o
               JOIN evidence f ON f.subnet = s.id AND f.complete AND f.accepted_generation >= e.accepted_generation
               JOIN evidence_map q ON q.cluster = f.cluster AND q.name = f.name AND NOT q.former
                AND q.kind = o.kind AND q.identifier = o.identifier
               WHERE o.reservation = r.id AND NOT o.removed AND q.address = m.address),
       m.name, m.former, e.accepted_generation > s.fork_generation
FROM evidence e JOIN cluster c ON c.id = e.cluster JOIN subnet s ON s.id = e.subnet
JOIN evidence_map m ON m.cluster = e.cluster AND m.name = e.name
LEFT JOIN host_map h ON h.subnet = s.id AND h.kind = m.kind AND h.identifier = m.identifier
LEFT JOIN reservation r ON r.subnet = s.id AND r.address = m.address
WHERE e.subnet = %(subnet)s AND e.complete AND NOT e.settled AND m.undecided
ORDER BY m.former, e.accepted_generation DESC, e.cluster, m.address, m.kind, m.identifier
LIMIT %(limit)s
"""

_DECIDED: Final = """
UPDATE evidence_map m SET undecided = false
FROM jsonb_to_recordset(%s) AS q(cluster bigint, name text, kind text, identifier text, former boolean, address inet)
WHERE m.cluster = q.cluster AND m.name = q.name AND m.kind = q.kind AND m.identifier = decode(q.identifier, 'hex')
  AND m.former = q.former AND m.address = q.address
"""

# What gives way: its host maps are removed, and a user's reservation does not count any more.
_DISPLACE: Final = """
WITH gone AS (DELETE FROM reservation WHERE subnet = %(subnet)s AND id = ANY(%(ids)s) RETURNING id, owner, kind),
     maps AS (UPDATE host_map h SET removed = true, generation = %(generation)s, request_id = 'recovery'
              FROM gone WHERE h.reservation = gone.id AND NOT h.removed)
UPDATE reservation_count n SET reservations = n.reservations - fewer.count
FROM (SELECT owner, count(*) FROM gone WHERE kind = 'user' GROUP BY owner) AS fewer(owner, count)
WHERE n.account = fewer.owner AND n.subnet = %(subnet)s
"""

_MAKE: Final = """
INSERT INTO reservation (subnet, address, id, kind, status, owner, macs, client_id, duid, hostname, comment,
                         map_generation, release_generation)
SELECT %(subnet)s, address, id, 'recovered', status, %(owner)s, ARRAY(SELECT jsonb_array_elements_text(macs)),
       client_id, duid, hostname, comment, %(generation)s,
       CASE status WHEN 'releasing' THEN %(generation)s::bigint END
FROM jsonb_to_recordset(%(rows)s) AS q(address inet, id bigint, status text, macs jsonb, client_id text, duid text,
                                       hostname text, comment text)
"""

_MAP: Final = """
INSERT INTO host_map (subnet, kind, identifier, address, hostname, reservation, generation, removed, request_id)
SELECT %(subnet)s, kind, decode(identifier, 'hex'), address, hostname, reservation, %(generation)s, false, 'recovery'
FROM jsonb_to_recordset(%(rows)s) AS q(kind text, identifier text, address inet, hostname text, reservation bigint)
ON CONFLICT (subnet, kind, identifier) DO UPDATE SET address = excluded.address, hostname = excluded.hostname,
    reservation = excluded.reservation, generation = excluded.generation, removed = false, request_id = 'recovery'
"""

# Several may join one reservation, and an UPDATE writes each row once.
_JOIN_MACS: Final = """
UPDATE reservation r SET macs = r.macs || j.macs
FROM (SELECT o.id, array_agg(q.mac ORDER BY q.place) AS macs
      FROM ROWS FROM (jsonb_to_recordset(%(rows)s) AS (reservation bigint, mac text)) WITH ORDINALITY
           AS q(reservation, mac, place)
      JOIN reservation o ON o.subnet = %(subnet)s AND o.id = q.reservation AND NOT q.mac = ANY(o.macs)
      WHERE q.mac IS NOT NULL GROUP BY o.id) j
WHERE r.subnet = %(subnet)s AND r.id = j.id
"""

# In the lost past they may have been free, taken and released once more: every holder has to confirm anew.
_REST_ANEW: Final = """
UPDATE reservation SET release_generation = %(generation)s, confirmed_at = NULL, free_at = NULL
WHERE subnet = %(subnet)s AND status = 'releasing'
"""

# Where nobody is a holder nobody will confirm.
_CONFIRM_UNHELD: Final = """
UPDATE reservation r SET confirmed_at = now(), free_at = now() + make_interval(secs => s.release_hold_seconds)
FROM subnet s WHERE s.id = %(subnet)s AND r.subnet = s.id AND r.status = 'releasing' AND r.confirmed_at IS NULL
  AND NOT EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id AND d.role IN ('serving', 'draining'))
"""

# Those whose last host map went elsewhere rest: a client may still use the address.
_BEREFT: Final = """
UPDATE reservation r SET status = 'releasing', release_generation = %(generation)s, confirmed_at = NULL, free_at = NULL
WHERE r.subnet = %(subnet)s AND r.id = ANY(%(ids)s) AND r.status = 'active'
  AND NOT EXISTS (SELECT FROM host_map h WHERE h.reservation = r.id AND NOT h.removed)
"""

_POSSIBLY_RELEASED: Final = """
WITH told AS (INSERT INTO recovery_finding (history, kind, subnet, address, reservation, detail)
SELECT g.history, %(kind)s, r.subnet, r.address, r.id,
       format('%%s is still reserved (%%s), but the cluster that knows the most had no host map of it any more: it was '
              'released in the lost past, if nobody misses it release it again', host(r.address), r.kind)
FROM region g, reservation r
WHERE r.subnet = %(subnet)s AND r.status = 'active' AND r.map_generation <= %(newest)s AND r.created <= %(fork_at)s
  AND EXISTS (SELECT FROM host_map h WHERE h.reservation = r.id AND NOT h.removed)
  AND NOT EXISTS (
      SELECT FROM host_map h JOIN evidence_map m ON m.kind = h.kind AND m.identifier = h.identifier
      JOIN evidence e ON e.cluster = m.cluster AND e.name = m.name
      WHERE h.reservation = r.id AND NOT h.removed AND e.subnet = r.subnet AND e.accepted_generation = %(newest)s
        AND NOT m.former)
ORDER BY r.address LIMIT %(limit)s RETURNING 1)
SELECT count(*) FROM told
"""

_FINDINGS: Final = """
INSERT INTO recovery_finding (history, kind, subnet, address, reservation, detail)
SELECT g.history, q.kind, %(subnet)s, q.address, q.reservation, q.detail
FROM region g, jsonb_to_recordset(%(rows)s) AS q(kind text, address inet, reservation bigint, detail text)
"""


@dataclass(slots=True)
class Settled:
    """A subnet that is settled: at which generation it goes on, and how many findings there are of each kind."""

    subnet: int
    cidr: str
    generation: int
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, count: int) -> None:
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count


async def settle_subnet(session: Session, subnet: int, new_id: NewId) -> Settled | None:
    """See the module; the caller holds the subnet's lock. None when there is nothing to settle, or not yet."""
    await session.run("SET LOCAL statement_timeout = '60s'")
    rows = await session.run(
        f"""SELECT s.cidr::text, s.generation, s.recovering_since IS NOT NULL, s.fork_at, s.evidence_generation,
               EXISTS (SELECT FROM cluster c WHERE c.unheard AND {MAY_HAVE})
           FROM subnet s WHERE s.id = %s""",  # noqa: S608 (constants only)
        (subnet,),
    )
    if not rows:
        return None
    cidr, generation, recovering, fork_at, known_evidence, waits = rows[0]
    await session.run(
        """UPDATE evidence e SET subnet = s.id FROM subnet s, cluster c
           WHERE s.id = %s AND e.subnet IS NULL AND e.cidr = s.cidr AND c.id = e.cluster AND (c.vrf = s.vrf
               OR EXISTS (SELECT FROM cluster_interface i WHERE i.cluster = c.id AND i.subnet = s.id AND i.present))""",
        (subnet,),
    )
    [(seen, newest)] = await session.run(
        """SELECT max(greatest(accepted_generation, applied_generation)), max(accepted_generation) FROM evidence
           WHERE subnet = %s AND complete AND NOT settled""",
        (subnet,),
    )
    if (recovering and waits) or (not recovering and seen is None):
        return None
    settled = Settled(subnet, cidr, max(generation, seen or 0) + 1 if recovering else generation + 1)
    shared = {"subnet": subnet, "generation": settled.generation}
    if recovering:
        await session.run(_REST_ANEW, shared)
    if newest is not None:
        # Of what comes late, only what is newer than all that was taken into account is the newest.
        leading = newest if known_evidence is None or newest > known_evidence else None
        await _settle_chunks(session, settled, leading, new_id)
        if leading is not None and recovering:
            told = await session.run(
                _POSSIBLY_RELEASED,
                {
                    "kind": FindingKind.POSSIBLY_RELEASED.value,
                    "subnet": subnet,
                    "newest": leading,
                    "fork_at": fork_at,
                    "limit": MAX_POSSIBLY_RELEASED,
                },
            )
            settled.add(FindingKind.POSSIBLY_RELEASED.value, int(told[0][0]))
    if recovering:
        await session.run(_CONFIRM_UNHELD, shared)
    elif not settled.counts:
        settled.generation = generation
    await session.run(
        """UPDATE subnet SET generation = %s, digest = host_map_digest(id), recovering_since = NULL,
               evidence_generation = greatest(evidence_generation, %s) WHERE id = %s""",
        (settled.generation, newest, subnet),
    )
    await session.run("UPDATE evidence SET settled = true WHERE subnet = %s AND complete", (subnet,))
    await rebuild_free_ranges(session, subnet)
    return settled


async def _settle_chunks(session: Session, settled: Settled, newest: int | None, new_id: NewId) -> None:
    await session.run(_OWNER, (new_id(), LOCAL_ACCOUNT))
    owner = (await session.run("SELECT id FROM account WHERE name = %s", (LOCAL_ACCOUNT,)))[0][0]
    await session.run(_MARK, (settled.subnet,))
    shared = {"subnet": settled.subnet, "newest": newest if newest is not None else -1, "limit": CHUNK}
    while rows := await session.run(_CANDIDATES, shared):
        candidates = [_candidate(row) for row in rows]
        decided = settle(candidates)
        await _write(session, settled, decided, owner, new_id)
        done = [
            {"cluster": r[0], "name": r[18], "former": r[19], **_map_row(one.identifier, one.address, None, 0)}
            for r, one in zip(rows, candidates, strict=True)
        ]
        await session.run(_DECIDED, (json.dumps(done),))


def _candidate(row: Row) -> Candidate:
    cluster, cluster_name, kind, value, address, hostname, accepted, newest = row[:8]
    known_address, known_removed, known_generation, known_reservation = row[8:12]
    occupant = None if row[12] is None else Occupant(*row[12:18])
    return Candidate(
        cluster=cluster,
        cluster_name=cluster_name,
        identifier=Identifier(IdentifierKind(kind), bytes(value)),
        address=address,
        hostname=hostname,
        accepted=accepted,
        newest=newest,
        known_address=known_address,
        known_removed=bool(known_removed),
        known_generation=known_generation,
        known_reservation=known_reservation,
        occupant=occupant,
        former=row[19],
        beyond=bool(row[20]),
    )


async def _write(session: Session, settled: Settled, decided: Settlement, owner: int, new_id: NewId) -> None:
    shared = {"subnet": settled.subnet, "generation": settled.generation, "owner": owner}
    ids = {address: new_id() for address in decided.recovered}
    displaced = [r.displaced.reservation for r in decided.recovered.values() if r.displaced is not None]
    if displaced:
        await session.run(_DISPLACE, {**shared, "ids": displaced})
    if decided.recovered:
        made = [reservation_row(ids[address], row) for address, row in decided.recovered.items()]
        await session.run(_MAKE, {**shared, "rows": json.dumps(made)})
    maps = [
        _map_row(identifier, row.address, hostname, ids[address])
        for address, row in decided.recovered.items()
        for identifier, hostname in row.maps.items()
    ]
    maps += [_map_row(j.identifier, j.address, j.hostname, j.reservation) for j in decided.joined]
    if maps:
        await session.run(_MAP, {**shared, "rows": json.dumps(maps)})
    if decided.joined:
        macs = [
            {"reservation": j.reservation, "mac": j.identifier.text}
            for j in decided.joined
            if j.identifier.kind is IdentifierKind.MAC
        ]
        await session.run(_JOIN_MACS, {**shared, "rows": json.dumps(macs)})
    if decided.bereft:
        await session.run(_BEREFT, {**shared, "ids": list(decided.bereft)})
    if decided.findings:
        rows = [_finding_row(finding, ids) for finding in decided.findings]
        await session.run(_FINDINGS, {**shared, "rows": json.dumps(rows)})
        for finding in decided.findings:
            settled.add(finding.kind.value, 1)
    for address, row in decided.recovered.items():
        await _audit(session, settled, ids[address], row)


async def _audit(session: Session, settled: Settled, reservation: int, row: Recovered) -> None:
    change = Change(Actor(None, "region", is_admin=True), "recovery")
    after: dict[str, Any] = {
        "address": row.address,
        "subnet": settled.cidr,
        "cluster": row.cluster_name,
        "identifiers": [str(identifier) for identifier in row.maps],
    }
    before = None
    if row.displaced is not None:
        before = {
            "displaced": format_id(Prefix.RESERVATION, row.displaced.reservation),
            "kind": row.displaced.kind,
        }
    name = format_id(Prefix.RESERVATION, reservation)
    await write_audit(session, change, "reservation.recover", name, before, after)


def reservation_row(number: int, row: Recovered) -> dict[str, Any]:
    by_kind: dict[IdentifierKind, list[str]] = {kind: [] for kind in IdentifierKind}
    for identifier in row.maps:
        by_kind[identifier.kind].append(identifier.text)
    return {
        "address": row.address,
        "id": number,
        "status": "releasing" if row.resting else "active",
        "macs": by_kind[IdentifierKind.MAC],
        "client_id": next(iter(by_kind[IdentifierKind.CLIENT_ID]), None),
        "duid": next(iter(by_kind[IdentifierKind.DUID]), None),
        "hostname": next((hostname for hostname in row.maps.values() if hostname), None),
        "comment": f"recovered: cluster {row.cluster_name} served it",
    }


def _map_row(identifier: Identifier, address: str, hostname: str | None, reservation: int) -> dict[str, Any]:
    return {
        "kind": identifier.kind.value,
        "identifier": identifier.value.hex(),
        "address": address,
        "hostname": hostname,
        "reservation": reservation,
    }


def _finding_row(finding: Finding, made: dict[str, int]) -> dict[str, Any]:
    reservation = finding.reservation
    if finding.kind in (FindingKind.RECOVERED, FindingKind.RESTING) and finding.address is not None:
        reservation = made.get(finding.address)
    return {
        "kind": finding.kind.value,
        "address": finding.address,
        "reservation": reservation,
        "detail": finding.detail,
    }
