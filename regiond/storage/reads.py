"""What is read outside of batches: reservations with their progress, devices, nodes, clusters, subnets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

from regiond.domain.facts import Answered
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.mutations import Idempotency, Outcome
from regiond.domain.plan import replayed
from regiond.domain.reservations import Delivery, Reservation, Status, progress_of
from regiond.domain.views import (
    ClusterSubnetView,
    ClusterView,
    DeviceView,
    InterfaceView,
    NodeView,
    ReservationView,
    SubnetView,
)
from regiond.storage.batch import read_delivery, read_reservation
from regiond.storage.connection import Row
from regiond.storage.pool import SETTLE, Pool
from regiond.storage.reservation_filter import ReservationFilter

AT_ONCE: Final = 1000  # reservations

# A cluster whose regiond was killed stays marked as connected; nothing was heard of it since then.
CONNECTED = "(c.connected_since IS NOT NULL AND c.last_heard > now() - interval '60 s')"

_VIEW = f"""
SELECT reservation_json(r), CASE WHEN r.map_generation IS NULL THEN NULL ELSE (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
            'cluster', d.cluster, 'cluster_name', c.name, 'role', d.role, 'connected', {CONNECTED},
            'accepted_generation', d.accepted_generation, 'applied_generation', d.applied_generation,
            'error', d.error, 'since', d.since,
            'rejected', (SELECT min(j.reason) FROM rejected_map j JOIN host_map m USING (subnet, kind, identifier)
                         WHERE j.subnet = d.subnet AND j.cluster = d.cluster AND m.reservation = r.id))
        ORDER BY c.name), '[]'::jsonb)
    FROM delivery d JOIN cluster c ON c.id = d.cluster WHERE d.subnet = r.subnet) END
FROM reservation r
"""  # noqa: S608 (constants only)


@dataclass(frozen=True, slots=True)
class RegionIdentity:
    """Which region this database is, and which of its pasts."""

    region: str
    history: str


class Reads:
    """Read-only questions, each one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def identity(self) -> RegionIdentity:
        rows = await self._pool.query("SELECT id::text, history::text FROM region", retry=True)
        return RegionIdentity(rows[0][0], rows[0][1])

    async def reservations(
        self, wanted: ReservationFilter, limit: int = 1000, after: int | None = None
    ) -> list[ReservationView]:
        """In order of id, which is how pages continue: `after` is the last id of the page before."""
        where, arguments = wanted.where(after)
        rows = await self._pool.query(f"{_VIEW} WHERE {where} ORDER BY r.id LIMIT %s", (*arguments, limit), retry=True)
        return [_reservation_view(row[0], row[1]) for row in rows]

    async def all_reservations(self, wanted: ReservationFilter) -> list[ReservationView]:
        """However many there are, in order of id: some at a time, since making thousands would stall the reactor."""
        found: list[ReservationView] = []
        while True:
            part = await self.reservations(wanted, AT_ONCE, found[-1].reservation.id if found else None)
            found += part
            if len(part) < AT_ONCE:
                return found

    async def reservation(self, reservation: int) -> ReservationView | None:
        found = await self.reservations(ReservationFilter(ids=[reservation]), limit=1)
        return found[0] if found else None

    async def answer(self, idempotency: Idempotency) -> Outcome | None:
        """The first answer to this key, or None. Raises IdempotencyKeyReused if it was to another request."""
        rows = await self._pool.query(
            "SELECT fingerprint, answer FROM idempotency WHERE account = %s AND key = %s",
            (idempotency.account, idempotency.key),
            retry=True,
        )
        if not rows:
            return None
        await self._pool.execute(SETTLE, retry=True)
        return replayed(idempotency, Answered(*rows[0]))

    # ---- devices and nodes ----

    async def devices(
        self, ids: Sequence[int] = (), owner: int | None = None, limit: int = 1000, after: int | None = None
    ) -> list[DeviceView]:
        return await self._with_addresses(await self._device_rows(ids, owner, limit, after))

    async def device_page(
        self, owner: int | None, limit: int, after: int | None = None
    ) -> tuple[list[DeviceView], bool]:
        """At most so many, and fewer where they have more than AT_ONCE addresses together; whether more follow."""
        rows = await self._device_rows((), owner, limit + 1, after)
        counted = await self._pool.query(
            "SELECT device, count(*) FROM reservation WHERE device = ANY(%s) GROUP BY device",
            ([row[0] for row in rows],),
            retry=True,
        )
        addresses: dict[int, int] = dict(counted)
        together = accumulate(addresses.get(row[0], 0) for row in rows[:limit])
        fitting = max(1, sum(so_far <= AT_ONCE for so_far in together))
        return await self._with_addresses(rows[:fitting]), len(rows) > fitting

    async def _device_rows(self, ids: Sequence[int], owner: int | None, limit: int, after: int | None) -> list[Row]:
        return await self._pool.query(
            """SELECT d.id, d.hostname, a.name, d.comment, d.created FROM device d JOIN account a ON a.id = d.owner
               WHERE (%s OR d.id = ANY(%s)) AND (%s IS NULL OR d.owner = %s) AND d.id > %s ORDER BY d.id LIMIT %s""",
            (not ids, list(ids), owner, owner, after or 0, limit),
            retry=True,
        )

    async def _with_addresses(self, rows: Sequence[Row]) -> list[DeviceView]:
        if not rows:
            return []
        held: dict[int | None, list[ReservationView]] = {}
        for view in await self.all_reservations(ReservationFilter(devices=[row[0] for row in rows])):
            held.setdefault(view.reservation.device, []).append(view)
        return [
            DeviceView(id_, hostname, owner_name, comment, created, tuple(held.get(id_, ())))
            for id_, hostname, owner_name, comment, created in rows
        ]

    async def node_addresses(self, node: int) -> int:
        """How many extra addresses a node has."""
        rows = await self._pool.query("SELECT count(*) FROM reservation WHERE node = %s", (node,), retry=True)
        return int(rows[0][0])

    async def nodes(
        self, ids: Sequence[int] = (), owner: int | None = None, limit: int = 1000, after: int | None = None
    ) -> list[NodeView]:
        rows = await self._pool.query(
            """SELECT n.id, n.hostname, n.owner, a.name, n.comment, n.created,
                      ARRAY(SELECT m.mac FROM node_mac m WHERE m.node = n.id ORDER BY m.mac)
               FROM node n JOIN account a ON a.id = n.owner
               WHERE (%s OR n.id = ANY(%s)) AND (%s IS NULL OR n.owner = %s) AND n.id > %s ORDER BY n.id LIMIT %s""",
            (not ids, list(ids), owner, owner, after or 0, limit),
            retry=True,
        )
        return [
            NodeView(id_, hostname, owner_id, owner_name, tuple(macs), comment, created)
            for id_, hostname, owner_id, owner_name, comment, created, macs in rows
        ]

    async def node_named(self, text: str) -> NodeView | None:
        """The node with this id or host name."""
        number = parse_id(Prefix.NODE, text)
        if number is None:
            rows = await self._pool.query("SELECT id FROM node WHERE hostname = lower(%s)", (text,), retry=True)
            number = rows[0][0] if rows else None
        found = [] if number is None else await self.nodes([number])
        return found[0] if found else None

    async def account_id(self, name: str) -> int | None:
        rows = await self._pool.query("SELECT id FROM account WHERE name = %s", (name,), retry=True)
        return rows[0][0] if rows else None

    # ---- clusters and networks ----

    async def clusters(self) -> list[ClusterView]:
        rows = await self._pool.query(
            f"""SELECT c.id, c.name, v.name, c.hostname, c.backend, c.software_version, {CONNECTED},
                       c.connected_since, c.last_heard,
                       (SELECT coalesce(jsonb_agg(jsonb_build_object('subnet', s.id, 'cidr', s.cidr, 'role', d.role,
                            'desired_generation', s.generation, 'accepted_generation', d.accepted_generation,
                            'applied_generation', d.applied_generation, 'error', d.error, 'since', d.since,
                            'drift_count', d.drift_count, 'drift_at', d.drift_at)
                            ORDER BY s.cidr), '[]'::jsonb)
                        FROM delivery d JOIN subnet s ON s.id = d.subnet WHERE d.cluster = c.id),
                       c.enrolled, (SELECT max(t.expires) FROM certificate t
                                    WHERE t.cluster = c.id AND t.revoked IS NULL AND t.expires > now()),
                       c.revoked, c.turns_seen, c.topology_at
                FROM cluster c JOIN vrf v ON v.id = c.vrf
                WHERE c.forgotten IS NULL ORDER BY c.name""",  # noqa: S608 (constants only)
            retry=True,
        )
        return [
            ClusterView(
                id=row[0],
                name=row[1],
                vrf=row[2],
                hostname=row[3],
                backend=row[4],
                software_version=row[5],
                connected=row[6],
                connected_since=row[7],
                last_heard=row[8],
                subnets=tuple(_cluster_subnet(entry) for entry in row[9]),
                enrolled=row[10],
                certificate_expires=row[11],
                revoked=row[12],
                turns_seen=row[13],
                topology_at=row[14],
            )
            for row in rows
        ]

    async def interfaces(self) -> list[InterfaceView]:
        rows = await self._pool.query(
            """SELECT i.id, c.id, c.name, i.nic, i.cidr::text, coalesce(sv.name, i.vrf, v.name), i.subnet,
                      ARRAY(SELECT host(a) FROM unnest(i.addresses) a),
                      ARRAY(SELECT host(g) FROM unnest(i.gateways) g),
                      i.mac, i.kind, i.vlan, i.up, i.present, i.serving, i.relayed, i.conflict
               FROM cluster_interface i JOIN cluster c ON c.id = i.cluster JOIN vrf v ON v.id = c.vrf
               LEFT JOIN subnet s ON s.id = i.subnet LEFT JOIN vrf sv ON sv.id = s.vrf
               ORDER BY c.name, i.nic, i.cidr""",
            retry=True,
        )
        return [
            InterfaceView(
                id=row[0],
                cluster=row[1],
                cluster_name=row[2],
                nic=row[3],
                cidr=row[4],
                vrf=row[5],
                subnet=row[6],
                addresses=tuple(row[7]),
                gateways=tuple(row[8]),
                mac=row[9],
                kind=row[10],
                vlan=row[11],
                up=row[12],
                present=row[13],
                serving=row[14],
                relayed=row[15],
                conflict=row[16],
            )
            for row in rows
        ]

    async def subnets(self, only: int | None = None) -> list[SubnetView]:
        """All, or one. Without utilisation: `reservations` and `releasing` are counted by `subnet_counts`."""
        rows = await self._pool.query(
            """SELECT s.id, s.cidr::text, v.name, s.generation, s.release_hold_seconds,
                      ARRAY(SELECT c.name FROM delivery d JOIN cluster c ON c.id = d.cluster
                            WHERE d.subnet = s.id AND d.role = 'serving' ORDER BY c.name),
                      s.claimable_anyway,
                      ARRAY(SELECT c.name FROM delivery d JOIN cluster c ON c.id = d.cluster
                            WHERE d.subnet = s.id AND d.role = 'serving' AND c.contact = 'awaited' ORDER BY c.name),
                      ARRAY(SELECT c.id FROM delivery d JOIN cluster c ON c.id = d.cluster
                            WHERE d.subnet = s.id AND d.role = 'serving' ORDER BY c.name),
                      s.probe, claimant_names(s), s.recovering_since IS NOT NULL
               FROM subnet s JOIN vrf v ON v.id = s.vrf WHERE %s::bigint IS NULL OR s.id = %s
               ORDER BY v.name, s.cidr""",
            (only, only),
            retry=True,
        )
        return [
            SubnetView(
                *(id_, cidr, vrf, generation, hold, tuple(clusters), 0, 0, anyway, tuple(awaits), tuple(ids), probe),
                None if claimants is None else tuple(claimants),
                recovering,
            )
            for id_, cidr, vrf, generation, hold, clusters, anyway, awaits, ids, probe, claimants, recovering in rows
        ]

    async def subnet_counts(self, only: int | None = None) -> Mapping[int, tuple[int, int]]:
        """Per subnet, or for one: how many reservations, and how many of them are releasing."""
        where = "" if only is None else "WHERE subnet = %s"
        rows = await self._pool.query(
            f"""SELECT subnet, count(*), count(*) FILTER (WHERE status = 'releasing') FROM reservation {where}
                GROUP BY subnet""",  # noqa: S608 (constants only)
            None if only is None else (only,),
            retry=True,
        )
        return {subnet: (total, releasing) for subnet, total, releasing in rows}


def _reservation_view(fact: dict[str, Any], deliveries: list[dict[str, Any]] | None) -> ReservationView:
    reservation = read_reservation(fact)
    if deliveries is None:
        return ReservationView(reservation, None)
    rejections = {row["cluster"]: row["rejected"] for row in deliveries if row["rejected"] is not None}
    states = [read_delivery({k: v for k, v in row.items() if k != "rejected"}) for row in deliveries]
    return view_of(reservation, states, rejections)


def view_of(reservation: Reservation, deliveries: Sequence[Delivery], rejections: Mapping[int, str]) -> ReservationView:
    """A reservation with its progress, and in words what a releasing one waits for."""
    if reservation.map_generation is None:
        return ReservationView(reservation, None)
    generation = reservation.release_generation or reservation.map_generation
    progress = progress_of(generation, deliveries, dict(rejections))
    return ReservationView(reservation, progress, waits_for(reservation, deliveries))


def waits_for(reservation: Reservation, deliveries: Sequence[Delivery]) -> tuple[str, ...]:
    """Why a releasing address is not free yet: which cluster, since when; and the way out for each."""
    if reservation.status is Status.ACTIVE:
        return ()
    force = f"regionctl reservations release {format_id(Prefix.RESERVATION, reservation.id)} --force"
    if reservation.confirmed_at is not None:
        until = "now" if reservation.free_at is None else _seconds(reservation.free_at)
        return (f"the release hold, until {until}; a client may use the address until then ({force} ends it)",)
    needed = reservation.release_generation or 0
    return tuple(
        f"cluster {d.cluster_name} to confirm the removal ({'connected' if d.connected else 'not connected'}, "
        f"at generation {d.applied_generation} of {needed} since {_seconds(d.since)}"
        f"{'' if d.error is None else ': ' + d.error}); {_way_out(d)}, or {force}"
        for d in deliveries
        if d.role in ("serving", "draining") and d.applied_generation < needed
    )


def _way_out(delivery: Delivery) -> str:
    """What makes a holder confirm."""
    if not delivery.connected:
        return "bring its clusterd back"
    return "see what its DHCP server lacks" if delivery.error is not None else "it is being told"


def _seconds(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _cluster_subnet(entry: dict[str, Any]) -> ClusterSubnetView:
    times = {name: entry[name] and datetime.fromisoformat(entry[name]) for name in ("since", "drift_at")}
    return ClusterSubnetView(**{**entry, **times})
