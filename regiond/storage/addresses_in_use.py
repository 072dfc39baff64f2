"""Marks of addresses that somebody uses without a reservation: each change under the subnet's lock."""

from collections.abc import Sequence
from typing import Final

from clusterd.protocol.values import AddressInUse
from regiond.domain import errors
from regiond.domain.addresses_in_use import MarkedAddress
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.mutations import Actor
from regiond.storage.changes import (
    LONG_DEADLINE_SECONDS,
    Change,
    lock_subnet,
    once,
    rebuild_free_ranges,
    write_audit,
)
from regiond.storage.pool import Pool, Session

IN_USE_SECONDS: Final = 86_400.0
MAX_EXPIRED_AT_ONCE: Final = 500

_MARKS: Final = """SELECT u.id, u.subnet, host(u.address), u.mac, c.name, u.since, u.seen_at, u.expires_at
    FROM address_in_use u JOIN cluster c ON c.id = u.cluster"""

# Whoever has a reservation by now may be the one that answers.
_MARK: Final = """
INSERT INTO address_in_use (id, subnet, address, mac, cluster, expires_at)
SELECT %(id)s, %(subnet)s, %(address)s::inet, %(mac)s, %(cluster)s, now() + make_interval(secs => %(seconds)s)
WHERE NOT EXISTS (SELECT FROM reservation r WHERE r.subnet = %(subnet)s AND r.address = %(address)s::inet)
ON CONFLICT (subnet, address) DO UPDATE SET mac = excluded.mac, cluster = excluded.cluster, seen_at = now(),
    expires_at = excluded.expires_at
RETURNING since = seen_at
"""
_EXPIRED: Final = """SELECT subnet, array_agg(id) FROM (
    SELECT subnet, id FROM address_in_use WHERE expires_at <= now() ORDER BY expires_at LIMIT %s) q
    GROUP BY subnet ORDER BY subnet"""

_REGION: Final = Actor(None, "region", is_admin=True)


class InUseStore:
    """Raises NotFound for what is not there."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def marks(self, subnet: int) -> list[MarkedAddress]:
        """Every mark of a subnet, by address."""
        rows = await self._pool.query(f"{_MARKS} WHERE u.subnet = %s ORDER BY u.address", (subnet,), retry=True)
        return [MarkedAddress(*row) for row in rows]

    async def mark(self, request_id: str, subnet: int, cluster: int, found: Sequence[AddressInUse]) -> None:
        """Somebody answered the cluster for these addresses; what was marked before is seen anew."""

        async def write(session: Session) -> None:
            await lock_subnet(session, subnet)
            for each in found:
                row = {"id": self._new_id(), "subnet": subnet, "address": each.address, "mac": each.mac}
                made = await session.run(_MARK, {**row, "cluster": cluster, "seconds": IN_USE_SECONDS})
                if made and made[0][0]:
                    await rebuild_free_ranges(session, subnet, each.address, each.address)
                    after = {"address": each.address, "mac": each.mac, "cluster": format_id(Prefix.CLUSTER, cluster)}
                    by = Change(_REGION, request_id)
                    await write_audit(session, by, "address.in-use", format_id(Prefix.SUBNET, subnet), None, after)

        await self._pool.transaction(write, retry=True)

    async def clear(self, change: Change, subnet: int, mark: int) -> None:
        """The address can be handed out again, unless something else is against it."""

        async def delete(session: Session) -> int:
            rows = await session.run(
                "DELETE FROM address_in_use WHERE id = %s AND subnet = %s RETURNING host(address), mac", (mark, subnet)
            )
            if not rows:
                raise errors.NotFound(f"there is no mark {format_id(Prefix.ADDRESS_IN_USE, mark)} here")
            [(address, mac)] = rows
            await rebuild_free_ranges(session, subnet, address, address)
            before = {"address": address, "mac": mac}
            await write_audit(session, change, "address.clear-in-use", format_id(Prefix.SUBNET, subnet), before, None)
            return mark

        await once(self._pool, change, delete, subnet=subnet)

    async def expire(self) -> None:
        """Forget the marks whose time is over."""
        for subnet, ids in await self._pool.query(_EXPIRED, (MAX_EXPIRED_AT_ONCE,), retry=True):

            async def delete(session: Session, subnet: int = subnet, ids: Sequence[int] = tuple(ids)) -> None:
                await lock_subnet(session, subnet)
                rows = await session.run(
                    """DELETE FROM address_in_use WHERE subnet = %s AND id = ANY(%s) AND expires_at <= now()
                       RETURNING host(address)""",
                    (subnet, list(ids)),
                )
                for (address,) in rows:
                    await rebuild_free_ranges(session, subnet, address, address)

            await self._pool.transaction(delete, retry=True, deadline=LONG_DEADLINE_SECONDS)
