"""What can be asked and set of one subnet: how full it is, what is free, how long its addresses rest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from clusterd.protocol.addresses import address_to_int
from regiond.domain import errors, versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.networks import network
from regiond.domain.views import Utilisation
from regiond.storage.changes import Change, once, write_audit
from regiond.storage.pool import Pool, Session

# One statement, so one snapshot: the numbers belong together.
_UTILISATION = """
SELECT s.cidr::text,
       (SELECT coalesce(jsonb_object_agg(kind, n), '{}'::jsonb) FROM (
            SELECT r.kind, count(*) AS n FROM reservation r
            WHERE r.subnet = s.id AND r.status = 'active' GROUP BY r.kind) active),
       (SELECT count(*) FROM reservation r WHERE r.subnet = s.id AND r.status = 'releasing'),
       (SELECT coalesce(jsonb_agg(jsonb_build_array(g.kind, host(g.low), host(g.high))), '[]'::jsonb)
        FROM (SELECT g.kind, g.low, g.high FROM address_range g WHERE g.subnet = s.id
              UNION ALL SELECT 'dynamic', lower(span), upper(span) FROM (
                  SELECT unnest(range_agg(inetrange(p.low, p.high, '[]'))) AS span
                  FROM reported_range p WHERE p.subnet = s.id) reported) g),
       (SELECT count(DISTINCT i.address) FROM infrastructure_address i
        WHERE i.subnet = s.id AND i.address BETWEEN s.first_usable AND s.last_usable),
       (SELECT count(DISTINCT e.address) FROM reported_entry e
        WHERE e.subnet = s.id AND e.address BETWEEN s.first_usable AND s.last_usable),
       (SELECT count(*) FROM address_in_use u WHERE u.subnet = s.id),
       (SELECT coalesce(sum(span_size(f.low, f.high)), 0) FROM free_range f WHERE f.subnet = s.id)
FROM subnet s WHERE s.id = %s
"""


_CHANGEABLE: Final = ("release_hold_seconds", "claimable_anyway", "probe", "claimants")


class SubnetStore:
    """The only SQL about single subnets, but for their ranges and their checks. Raises NotFound."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def utilisation(self, subnet: int) -> Utilisation:
        rows = await self._pool.query(_UTILISATION, (subnet,), retry=True)
        if not rows:
            raise _gone(subnet)
        cidr, active, releasing, ranges, infrastructure, static_entries, in_use, free = rows[0]
        net = network(cidr)
        in_ranges = Counter({"dynamic": 0, "reserved": 0})
        for kind, low_text, high_text in ranges:
            low = max(address_to_int(low_text)[1], net.first_usable)
            high = min(address_to_int(high_text)[1], net.last_usable)
            in_ranges[kind] += max(0, high - low + 1)
        return Utilisation(
            subnet=subnet,
            cidr=cidr,
            usable=net.last_usable - net.first_usable + 1,
            active={"device": 0, "node": 0, "user": 0, **active},
            releasing=releasing,
            in_ranges=dict(in_ranges),
            infrastructure=infrastructure,
            static_entries=static_entries,
            in_use=in_use,
            free=int(free),
        )

    async def available(self, subnet: int, limit: int) -> list[str]:
        """The lowest free addresses as of now: at most `limit` of them, lowest first. Nobody keeps them free."""
        rows = await self._pool.query(
            """SELECT s.cidr::text, host(f.low), host(f.high) FROM subnet s LEFT JOIN LATERAL (
                   SELECT low, high FROM free_range WHERE subnet = s.id ORDER BY high LIMIT %s) f ON true
               WHERE s.id = %s ORDER BY f.high""",
            (limit, subnet),
            retry=True,
        )
        if not rows:
            raise _gone(subnet)
        net = network(rows[0][0])
        found: list[str] = []
        for _, low_text, high_text in rows:
            if low_text is None or len(found) == limit:
                break
            low, high = address_to_int(low_text)[1], address_to_int(high_text)[1]
            found.extend(net.text(address) for address in range(low, min(high, low + limit - len(found) - 1) + 1))
        return found

    async def change(self, change: Change, subnet: int, wanted: Mapping[str, Any]) -> None:
        """Set some of `release_hold_seconds`, `claimable_anyway`, `probe` and `claimants`, together.

        The former is how long an address rests after its removal was confirmed, also for those that are resting now;
        the second, whether addresses are claimed before every serving cluster has told what its DHCP server has of
        its own; the third, whether addresses are probed unless a claim says otherwise; the last names the accounts that
        may claim beside admins, None for all. Raises StaleVersion, and NotFound for an account that is not there.
        """

        async def update(session: Session) -> int:
            rows = await session.run(
                "SELECT release_hold_seconds, claimable_anyway, probe, claimant_names(s) FROM subnet s WHERE id = %s",
                (subnet,),
            )
            if not rows:
                raise _gone(subnet)
            versions.require(change.if_match, versions.of_subnet(subnet, *rows[0]))
            before = dict(zip(_CHANGEABLE, rows[0], strict=True))
            new = {name: value for name, value in wanted.items() if before[name] != value}
            if not new:
                return subnet
            after = before | new
            await session.run(
                """UPDATE subnet SET release_hold_seconds = %s, claimable_anyway = %s, probe = %s, claimants = %s
                   WHERE id = %s""",
                (
                    *(after["release_hold_seconds"], after["claimable_anyway"], after["probe"]),
                    *(await _accounts(session, after["claimants"]), subnet),
                ),
            )
            if (seconds := new.get("release_hold_seconds")) is not None:
                await session.run(
                    """UPDATE reservation SET free_at = confirmed_at + make_interval(secs => %s)
                       WHERE subnet = %s AND status = 'releasing' AND confirmed_at IS NOT NULL""",
                    (seconds, subnet),
                )
            former = {name: before[name] for name in new}
            await write_audit(session, change, "subnet.change", format_id(Prefix.SUBNET, subnet), former, new)
            return subnet

        await once(self._pool, change, update, subnet=subnet, sets=True)


async def _accounts(session: Session, names: Sequence[str] | None) -> list[int] | None:
    if names is None:
        return None
    rows = await session.run("SELECT name, id FROM account WHERE name = ANY(%s)", (list(names),))
    known: dict[str, int] = dict(rows)
    for name in names:
        if name not in known:
            raise errors.NotFound(f"there is no account {name}")
    return [known[name] for name in names]


def _gone(subnet: int) -> errors.NotFound:
    return errors.NotFound(f"there is no subnet {format_id(Prefix.SUBNET, subnet)}")
