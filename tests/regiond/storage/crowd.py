"""A subnet with very many reservations and host maps, made by the server itself in a few seconds."""

from regiond.domain.identity import ByName, Introduction
from regiond.domain.networks import network
from tests.regiond.storage.region import Region, new_id

RELEASING_EVERY = 100
LONG_SECONDS = 120.0

_SUBNET = "INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable, generation) VALUES (%s, 1, %s, %s, %s, 1)"
_RESERVATIONS = """
    SET statement_timeout = 0;
    INSERT INTO reservation (subnet, address, id, kind, status, owner, macs, map_generation, release_generation)
    SELECT %(subnet)s, %(first)s::inet + n * 2, %(base)s + n, 'device',
           CASE WHEN n %% %(releasing)s = 0 THEN 'releasing' ELSE 'active' END, %(owner)s,
           ARRAY['02:00:00:' || regexp_replace(lpad(to_hex(n), 6, '0'), '(..)(..)(..)', '\\1:\\2:\\3')], 1,
           CASE WHEN n %% %(releasing)s = 0 THEN 1 END
    FROM generate_series(1, %(count)s) AS n;
    INSERT INTO host_map (subnet, kind, identifier, address, reservation, generation, removed, request_id)
    SELECT %(subnet)s, 'mac', decode('020000' || lpad(to_hex(n), 6, '0'), 'hex'), %(first)s::inet + n * 2,
           %(base)s + n, 1, n %% %(releasing)s = 0, 'crowd'
    FROM generate_series(1, %(count)s) AS n;
    UPDATE subnet SET digest = host_map_digest(id) WHERE id = %(subnet)s;
    INSERT INTO delivery (subnet, cluster, role, accepted_generation) VALUES (%(subnet)s, %(cluster)s, 'serving', 1);
    SELECT rebuild_free_ranges(%(subnet)s);
    SELECT pg_stat_force_next_flush();  -- what this has read is not counted while somebody looks at the counters
    RESET statement_timeout
"""


async def crowd(region: Region, count: int, cidr: str = "10.0.0.0/8", *, analyzed: bool = True) -> tuple[int, int]:
    """A served subnet of which every second address is a device's, as (subnet, cluster).

    Reservation `n` of 1 to `count` has the MAC address 02:00:00 and then n. One in a hundred is releasing. Not
    `analyzed`, PostgreSQL has no statistics of them, as after a restore.
    """
    subnet, net = new_id(), network(cidr)
    registered = await region.clusters.register(ByName(f"rack-{subnet}"), Introduction("rack", "file", "0"))
    await region.pool.execute(_SUBNET, (subnet, cidr, net.text(net.first_usable), net.text(net.last_usable)))
    values = {
        "subnet": subnet,
        "cluster": registered.cluster,
        "owner": region.owner,
        "first": net.text(net.first),
        "base": new_id() & ~0xFFFFFF,
        "releasing": RELEASING_EVERY,
        "count": count,
    }
    await region.pool.query(_RESERVATIONS, values, deadline=LONG_SECONDS)
    if analyzed:
        await region.pool.query("ANALYZE reservation, host_map, free_range, subnet, delivery", deadline=LONG_SECONDS)
    return subnet, registered.cluster
