"""Dynamic and reserved ranges in the database: each change under its subnet's lock, with the free space recomputed."""

from collections.abc import Callable
from typing import Final

from clusterd.protocol.addresses import address_to_int
from regiond.domain import errors, versions
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.networks import Network, network
from regiond.domain.ranges import AddressRange, RangeKind, RangeValues, check_range, newly_dynamic
from regiond.storage.batch import read_reservation
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, once, rebuild_free_ranges, write_audit
from regiond.storage.connection import Row
from regiond.storage.pool import Pool, Session

MAX_LISTED: Final = 100

_RANGES: Final = "SELECT id, subnet, kind, host(low), host(high), comment, created FROM address_range"
_RANGE_ID: Final = f"{_RANGES} WHERE id = %s"

_REPORTED: Final = """SELECT p.id, p.subnet, 'dynamic', host(p.low), host(p.high), p.source, p.created, c.name
    FROM reported_range p JOIN cluster c ON c.id = p.cluster"""

_OVERLAPPING: Final = f"""{_RANGES} WHERE subnet = %s AND id <> %s
    AND inetrange(low, high, '[]') && inetrange(%s, %s, '[]') ORDER BY low LIMIT 1"""

# Those that were the DHCP server's to lease already are not asked about again.
_RESERVED: Final = """FROM reservation r WHERE r.subnet = %s AND r.address BETWEEN %s AND %s
    AND NOT coalesce(r.address BETWEEN %s::inet AND %s::inet, false)"""


class RangeStore:
    """Reads and changes ranges; everything changed is audited in the same transaction."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def ranges(self, subnet: int) -> list[AddressRange]:
        """All ranges of a subnet, the lowest first."""
        rows = await self._pool.query(f"{_RANGES} WHERE subnet = %s ORDER BY low", (subnet,), retry=True)
        reported = await self._pool.query(f"{_REPORTED} WHERE p.subnet = %s", (subnet,), retry=True)
        found = [*map(_range, rows), *map(_reported, reported)]
        return sorted(found, key=lambda each: (address_to_int(each.values.low), each.id))

    async def range(self, subnet: int, range_id: int) -> AddressRange:
        """Raises NotFound."""
        rows = await self._pool.query(f"{_RANGE_ID} AND subnet = %s", (range_id, subnet), retry=True)
        if rows:
            return _range(rows[0])
        reported = await self._pool.query(
            f"{_REPORTED} WHERE p.id = %s AND p.subnet = %s", (range_id, subnet), retry=True
        )
        if not reported:
            raise _gone(range_id)
        return _reported(reported[0])

    async def add(self, change: Change, subnet: int, values: RangeValues, *, force: bool) -> AddressRange:
        """Raises RangeOverlap, RangeOverReservations (unless forced), NotFound for the subnet, and as `check_range`.

        A repeated idempotency key gives the range first made.
        """
        range_id = self._new_id()

        async def insert(session: Session) -> int:
            forced_over = await _check(session, subnet, range_id, None, values, force)
            await session.run(
                "INSERT INTO address_range (id, subnet, kind, low, high, comment) VALUES (%s, %s, %s, %s, %s, %s)",
                (range_id, subnet, values.kind.value, values.low, values.high, values.comment),
            )
            await rebuild_free_ranges(session, subnet, values.low, values.high)
            await _audit(session, change, "range.add", subnet, range_id, None, values, forced_over)
            return range_id

        made = await once(
            self._pool, change, insert, _RANGE_ID, (range_id,), subnet=subnet, deadline=LONG_DEADLINE_SECONDS
        )
        try:
            return await self.range(subnet, made)
        except errors.NotFound:
            raise errors.NotFound("the range that this request made is gone since") from None

    async def change(
        self,
        change: Change,
        subnet: int,
        range_id: int,
        edit: Callable[[RangeValues], RangeValues],
        *,
        force: bool,
    ) -> AddressRange:
        """Make a range what `edit` makes of it. Raises NotFound, RangeReported, and as `add`."""

        async def update(session: Session) -> int:
            rows = await session.run(f"{_RANGE_ID} AND subnet = %s", (range_id, subnet))
            if not rows:
                raise await _not_ours_to_change(session, subnet, range_id)
            held = _range(rows[0])
            versions.require(change.if_match, versions.of_range(held))
            before = held.values
            values = edit(before)
            if values == before:
                return range_id
            forced_over = await _check(session, subnet, range_id, before, values, force)
            await session.run(
                "UPDATE address_range SET kind = %s, low = %s, high = %s, comment = %s WHERE id = %s",
                (values.kind.value, values.low, values.high, values.comment, range_id),
            )
            if (values.low, values.high) != (before.low, before.high):
                await rebuild_free_ranges(session, subnet, before.low, before.high)
                await rebuild_free_ranges(session, subnet, values.low, values.high)
            await _audit(session, change, "range.change", subnet, range_id, before, values, forced_over)
            return range_id

        await once(self._pool, change, update, subnet=subnet, deadline=LONG_DEADLINE_SECONDS, sets=True)
        return await self.range(subnet, range_id)

    async def remove(self, change: Change, subnet: int, range_id: int) -> None:
        """Its addresses can be claimed from now on, but for those that are reserved. Raises NotFound, RangeReported."""

        async def delete(session: Session) -> int:
            rows = await session.run(
                """DELETE FROM address_range WHERE id = %s AND subnet = %s
                   RETURNING id, subnet, kind, host(low), host(high), comment, created""",
                (range_id, subnet),
            )
            if not rows:
                raise await _not_ours_to_change(session, subnet, range_id)
            held = _range(rows[0])
            versions.require(change.if_match, versions.of_range(held))
            removed = held.values
            await rebuild_free_ranges(session, subnet, removed.low, removed.high)
            await _audit(session, change, "range.remove", subnet, range_id, removed, None, 0)
            return range_id

        await once(self._pool, change, delete, subnet=subnet, deadline=LONG_DEADLINE_SECONDS)


async def _check(
    session: Session, subnet: int, range_id: int, before: RangeValues | None, values: RangeValues, force: bool
) -> int:
    """What can only be seen under the lock; how many reservations a forced dynamic range is put over."""
    check_range(await _network(session, subnet), values)
    others = await session.run(_OVERLAPPING, (subnet, range_id, values.low, values.high))
    if others:
        other = _range(others[0])
        raise errors.RangeOverlap(f"{values} overlaps {other.values}", range=other)
    if not newly_dynamic(before, values):
        return 0
    was_dynamic = before is not None and before.kind is RangeKind.DYNAMIC
    known = (before.low, before.high) if before is not None and was_dynamic else (None, None)
    span = (subnet, values.low, values.high, *known)
    count = int((await session.run(f"SELECT count(*) {_RESERVED}", span))[0][0])
    if count and not force:
        listed = await session.run(
            f"SELECT reservation_json(r) {_RESERVED} ORDER BY r.address LIMIT %s", (*span, MAX_LISTED)
        )
        raise errors.RangeOverReservations(
            f"{count} {'address' if count == 1 else 'addresses'} of {values} are reserved: release them first, or take "
            f"the range with force; then they stay with their holders, and the DHCP server must not lease them",
            count=count,
            reservations=[read_reservation(fact) for (fact,) in listed],
        )
    return count


async def _network(session: Session, subnet: int) -> Network:
    rows = await session.run("SELECT cidr::text FROM subnet WHERE id = %s", (subnet,))
    if not rows:
        raise errors.NotFound("this subnet is gone")
    return network(rows[0][0])


async def _audit(
    session: Session,
    change: Change,
    action: str,
    subnet: int,
    range_id: int,
    before: RangeValues | None,
    after: RangeValues | None,
    forced_over: int,
) -> None:
    where = {"subnet": format_id(Prefix.SUBNET, subnet)}
    forced = {"forced_over_reservations": forced_over} if forced_over else {}
    await write_audit(
        session,
        change,
        action,
        format_id(Prefix.ADDRESS_RANGE, range_id),
        None if before is None else {**where, **before.summary},
        None if after is None else {**where, **after.summary, **forced},
    )


def _range(row: Row) -> AddressRange:
    return AddressRange(row[0], row[1], RangeValues(RangeKind(row[2]), row[3], row[4], row[5]), row[6])


def _reported(row: Row) -> AddressRange:
    return AddressRange(row[0], row[1], RangeValues(RangeKind(row[2]), row[3], row[4], row[5]), row[6], row[7])


async def _not_ours_to_change(session: Session, subnet: int, range_id: int) -> errors.DomainError:
    """Why there is no range of this id that can be changed."""
    rows = await session.run(f"{_REPORTED} WHERE p.id = %s AND p.subnet = %s", (range_id, subnet))
    if not rows:
        return _gone(range_id)
    held = _reported(rows[0])
    return errors.RangeReported(
        f"{held.values.low} to {held.values.high} is a pool of the DHCP server of cluster {held.reported_by} "
        f"({held.values.comment}): change it there, and it changes here within minutes"
    )


def _gone(range_id: int) -> errors.NotFound:
    return errors.NotFound(f"there is no range {format_id(Prefix.ADDRESS_RANGE, range_id)} here")
