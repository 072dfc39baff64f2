"""A check of a subnet finds every kind of damage and nothing else, and a repair heals what can be computed."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Acknowledge
from regiond.storage.check import MAX_OF_A_KIND
from tests.regiond.storage.region import addresses
from tests.regiond.subnet_world import SubnetWorld, subnet_world

reactor: Any = global_reactor

MACS = [Identifier.mac(f"00:16:3e:00:00:{n:02x}") for n in range(1, 10)]

# Of 192.0.2.0/28: .1 the controller's; .2 and .3 devices; .4 a releasing device; .5 and .6 users; .9 to .10 dynamic,
# with a reservation at .9; .12 reserved; so .7 to .8, .11 and .13 to .14 are free.
FREE = [("192.0.2.7", "192.0.2.8"), ("192.0.2.11", "192.0.2.11"), ("192.0.2.13", "192.0.2.14")]


async def full_subnet(world: SubnetWorld) -> tuple[int, str]:
    cluster, (number,) = await world.region.cluster("rack-a", "192.0.2.0/28")
    subnet = format_id(Prefix.SUBNET, number)
    region = world.region
    for mac in MACS[:3]:
        (held,) = (await region.do(region.device(number, mac, hostname=f"host{mac.value[5]}"))).reservations
    await region.release(held)
    await region.do(region.user(number), region.user(number), region.user(number, address="192.0.2.9"))
    await region.do(Acknowledge(cluster, number, 3, 3, rejected=()))
    await world.add(subnet, "192.0.2.9", "192.0.2.10", force=True)
    await world.add(subnet, "192.0.2.12", "192.0.2.12", "reserved")
    return number, subnet


@pytest_twisted.ensureDeferred
async def test_what_is_sound_has_no_findings(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await full_subnet(world)
        report = await world.check(subnet)
        assert (report.findings, report.cidr, report.vrf) == ((), "192.0.2.0/28", "default")
        assert (report.reservations, report.host_maps, report.free_ranges) == (6, 2, 3)
        rows = await world.region.pool.query(
            "SELECT host(low), host(high) FROM free_range WHERE subnet = %s ORDER BY low", (number,)
        )
        assert rows == FREE


DAMAGE: dict[str, tuple[str, dict[str, str]]] = {
    "a free range is lost": (
        "DELETE FROM free_range WHERE high = '192.0.2.8'",
        {"never-allocated": "192.0.2.7 to 192.0.2.8 (2 addresses)", "numbers-wrong": "14 usable"},
    ),
    "one address is lost": (
        "UPDATE free_range SET low = '192.0.2.14' WHERE high = '192.0.2.14'",
        {"never-allocated": "192.0.2.13 would never", "numbers-wrong": ""},
    ),
    "a free range covers a reservation": (
        "UPDATE free_range SET low = '192.0.2.6' WHERE high = '192.0.2.8'",
        {"free-but-taken": "192.0.2.6 counts as free, but reservation rs-", "numbers-wrong": ""},
    ),
    "a free range covers a dynamic range": (
        "UPDATE free_range SET low = '192.0.2.10' WHERE high = '192.0.2.11'",
        {"free-but-taken": "192.0.2.10 counts as free, but lies in a dynamic range", "numbers-wrong": ""},
    ),
    "a free range covers the controller": (
        "INSERT INTO free_range SELECT id, '192.0.2.1', '192.0.2.1' FROM subnet",
        {"free-but-taken": "192.0.2.1 counts as free, but is infrastructure", "numbers-wrong": ""},
    ),
    "a free range covers the broadcast address": (
        "INSERT INTO free_range SELECT id, '192.0.2.15', '192.0.2.15' FROM subnet",
        {"free-but-taken": "192.0.2.15 counts as free", "numbers-wrong": ""},
    ),
    "a free range of another network": (
        "INSERT INTO free_range SELECT id, '203.0.113.1', '203.0.113.9' FROM subnet",
        {"free-but-taken": "203.0.113.1 to 203.0.113.9 (9 addresses)", "numbers-wrong": ""},
    ),
    "two free ranges touch": (
        "UPDATE free_range SET low = '192.0.2.8' WHERE high = '192.0.2.8';"
        "INSERT INTO free_range SELECT id, '192.0.2.7', '192.0.2.7' FROM subnet",
        {"free-range-untidy": " touches or overlaps"},
    ),
    "two free ranges overlap": (
        "INSERT INTO free_range SELECT id, '192.0.2.7', '192.0.2.7' FROM subnet",
        {"free-range-untidy": "192.0.2.7 touches or overlaps", "numbers-wrong": ""},
    ),
    "a user reservation is gone": (
        "DELETE FROM reservation WHERE address = '192.0.2.5'",
        {"never-allocated": "192.0.2.5 would never", "numbers-wrong": "", "count-wrong": "3 user reservations"},
    ),
    "a device's reservation is gone": (
        "DELETE FROM reservation WHERE address = '192.0.2.2'",
        {"never-allocated": "", "numbers-wrong": "", "host-map-surplus": "mac 00:16:3e:00:00:01 to 192.0.2.2"},
    ),
    "a reservation appears": (
        "INSERT INTO reservation (subnet, address, id, kind, status, owner)"
        " SELECT s.id, '192.0.2.13', 1, 'user', 'active', a.id FROM subnet s, account a",
        {"free-but-taken": "192.0.2.13 counts as free", "numbers-wrong": "", "count-wrong": "there are 4"},
    ),
    "a reservation is outside of the subnet": (
        "UPDATE reservation SET address = '192.0.2.99' WHERE address = '192.0.2.5'",
        {"outside-subnet": "has 192.0.2.99", "never-allocated": "192.0.2.5", "numbers-wrong": ""},
    ),
    "a reservation has the broadcast address": (
        "UPDATE reservation SET address = '192.0.2.15' WHERE address = '192.0.2.5'",
        {"outside-subnet": "has 192.0.2.15", "never-allocated": "192.0.2.5", "numbers-wrong": ""},
    ),
    "a range is outside of the subnet": (
        "UPDATE address_range SET high = '192.0.2.40' WHERE low = '192.0.2.12'",
        {"outside-subnet": "192.0.2.12 to 192.0.2.40", "free-but-taken": "reserved range", "numbers-wrong": ""},
    ),
    "a range is gone": (
        "DELETE FROM address_range WHERE low = '192.0.2.12'",
        {"never-allocated": "192.0.2.12 would", "numbers-wrong": ""},
    ),
    "a cluster controller has somebody's address": (
        "INSERT INTO infrastructure_address SELECT subnet, '192.0.2.6', cluster, 'gateway' FROM delivery",
        {"taken-by-infrastructure": "the gateway that cluster rack-a reports"},
    ),
    "a releasing address waits for nothing": (
        "UPDATE reservation SET release_generation = NULL, confirmed_at = NULL WHERE address = '192.0.2.4'",
        {"never-free": "192.0.2.4"},
    ),
    "a resting address rests for ever": (
        "UPDATE reservation SET confirmed_at = now(), free_at = NULL WHERE address = '192.0.2.4'",
        {"never-free": "192.0.2.4"},
    ),
    "a host map is gone": (
        "DELETE FROM host_map WHERE address = '192.0.2.2'",
        {"host-map-missing": "mac 00:16:3e:00:00:01 to 192.0.2.2", "digest-wrong": "generation 4"},
    ),
    "a host map is marked as removed": (
        "UPDATE host_map SET removed = true WHERE address = '192.0.2.2'",
        {"host-map-missing": "", "digest-wrong": ""},
    ),
    "a removed host map is back": (
        "UPDATE host_map SET removed = false WHERE address = '192.0.2.4'",
        {"host-map-surplus": "that reservation is releasing", "digest-wrong": ""},
    ),
    "a host map leads elsewhere": (
        "UPDATE host_map SET address = '192.0.2.14' WHERE address = '192.0.2.2'",
        {"host-map-missing": "to 192.0.2.2", "host-map-surplus": "not what the reservation says", "digest-wrong": ""},
    ),
    "a host map has another host name": (
        "UPDATE host_map SET hostname = 'other' WHERE address = '192.0.2.2'",
        {"host-map-missing": "", "host-map-surplus": "", "digest-wrong": ""},
    ),
    "a reservation has another MAC address": (
        "UPDATE reservation SET macs = '{no MAC at all}' WHERE address = '192.0.2.2'",
        {"host-map-missing": "", "host-map-surplus": "mac 00:16:3e:00:00:01"},
    ),
    "the digest is another one": (
        "UPDATE subnet SET digest = digest + 1",
        {"digest-wrong": "generation 4"},
    ),
    "a host map is of a generation to come": (
        "UPDATE host_map SET generation = 9 WHERE address = '192.0.2.3'",
        {"generation-ahead": "mac 00163e000002 is at generation 9"},
    ),
    "a cluster has applied what there is not": (
        "UPDATE delivery SET applied_generation = 7",
        {"generation-ahead": "cluster rack-a is at generation 7"},
    ),
    "a count is wrong": (
        "UPDATE reservation_count SET reservations = 17",
        {"count-wrong": "17 user reservations of account tester"},
    ),
    "a count is missing": (
        "DELETE FROM reservation_count",
        {"count-wrong": "0 user reservations of account tester"},
    ),
}
HEALED = {"never-allocated", "free-but-taken", "free-range-untidy", "numbers-wrong", "count-wrong"}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_found_and_named(database: str, damage: str) -> None:
    sql, expected = DAMAGE[damage]
    async with subnet_world(database, reactor) as world:
        _, subnet = await full_subnet(world)
        await world.region.pool.execute(sql)
        findings = (await world.check(subnet)).findings
        assert {finding.kind for finding in findings} == set(expected), findings
        for finding in findings:
            assert expected[finding.kind] in finding.detail, finding
        left = {finding.kind for finding in (await world.subnets.repair(world.admin, subnet)).findings}
        assert left == set(expected) - HEALED


@pytest_twisted.ensureDeferred
async def test_claims_go_on_after_a_repair_as_if_nothing_had_been(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await full_subnet(world)
        await world.region.pool.execute("DELETE FROM free_range")
        with pytest.raises(errors.SubnetExhausted):
            await world.region.do(world.region.user(number))
        for _ in range(2):
            report = await world.subnets.repair(world.keyed("k"), subnet)
            assert report.findings == ()
        assert addresses(await world.region.do(world.region.user(number))) == ["192.0.2.7"]
        assert await world.actions("subnet.") == [("subnet.repair", None, {"free_ranges_changed": 3})]


@pytest_twisted.ensureDeferred
async def test_one_subnet_of_several_is_looked_at(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        _, damaged = await full_subnet(world)
        number, other = await world.subnet("198.51.100.0/24")
        await world.region.do(world.region.user(number))
        await world.region.pool.execute(
            "DELETE FROM free_range WHERE high << '192.0.2.0/28';"
            "UPDATE subnet SET digest = 5 WHERE cidr = '192.0.2.0/28'"
        )
        assert await world.sound(other)
        assert not await world.sound(damaged)
        await world.subnets.repair(world.admin, other)
        assert len((await world.check(damaged)).findings) == 5


@pytest_twisted.ensureDeferred
async def test_ipv6(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet("2001:db8::/48")
        region = world.region
        duid = Identifier(IdentifierKind.DUID, bytes.fromhex("00010001aabb"))
        await region.do(region.device(number, duid, hostname="a"), region.user(number))
        await world.add(subnet, "2001:db8:0:8000::", "2001:db8:0:8000:ffff:ffff:ffff:ffff")
        assert await world.sound(subnet)
        await region.pool.execute("UPDATE free_range SET low = '2001:db8:0:9000::' WHERE low > '2001:db8:0:8000::'")
        found = {finding.kind: finding.detail for finding in (await world.check(subnet)).findings}
        assert set(found) == {"never-allocated", "numbers-wrong"}
        lost = 0xFFF << 64
        assert (
            f"2001:db8:0:8001:: to 2001:db8:0:8fff:ffff:ffff:ffff:ffff ({lost} addresses)" in found["never-allocated"]
        )
        assert (await world.subnets.repair(world.admin, subnet)).findings == ()
        await region.pool.execute("UPDATE reservation SET duid = NULL WHERE duid IS NOT NULL")
        assert [finding.kind for finding in (await world.check(subnet)).findings] == ["host-map-surplus"]


@pytest_twisted.ensureDeferred
async def test_of_many_findings_the_first_are_listed_and_the_others_counted(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet("192.0.2.0/24")
        await world.region.do(*[world.region.user(number) for _ in range(251)])
        await world.region.pool.execute(
            """INSERT INTO infrastructure_address SELECT r.subnet, r.address, c.id, 'gateway'
               FROM reservation r, cluster c WHERE r.subnet = %s""",
            (number,),
        )
        findings = (await world.check(subnet)).findings
        assert len(findings) == MAX_OF_A_KIND + 1
        assert findings[-1].kind == findings[0].kind and findings[-1].detail == "and 151 more of these"


@pytest_twisted.ensureDeferred
async def test_a_check_of_a_live_region_finds_nothing_and_stops_nobody(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet("10.0.0.0/16")
        region = world.region

        async def live(start: int) -> None:
            for n in range(start, start + 15):
                mac = Identifier.mac(f"00:16:3e:01:{start:02x}:{n:02x}")
                held = (await region.do(region.device(number, mac), region.user(number))).reservations
                await region.release(held[n % 2])

        living = [Deferred.fromCoroutine(live(start)) for start in range(0, 60, 15)]
        checks = [await world.check(subnet) for _ in range(12)]
        assert len({report.reservations for report in checks}) > 2
        assert [report.findings for report in checks] == [()] * 12
        await gatherResults(living, consumeErrors=True)
        await _holding_the_lock(world, number, subnet)


async def _holding_the_lock(world: SubnetWorld, number: int, subnet: str) -> None:
    """A check takes no lock: it answers while somebody holds the subnet's."""

    async def hold(session: Any) -> None:
        await session.run("SELECT pg_advisory_xact_lock(%s)", (number,))
        assert await world.sound(subnet)

    await world.region.pool.transaction(hold)


@pytest_twisted.ensureDeferred
async def test_checks_are_an_admins_and_of_what_there_is(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        _, subnet = await full_subnet(world)
        for refused in (world.subnets.check(world.user, subnet), world.subnets.repair(world.user, subnet)):
            with pytest.raises(errors.NotPermitted):
                await refused
        for missing in ("sn-0000000000", "203.0.113.0/24", "no such thing"):
            for nothing in (world.check(missing), world.subnets.repair(world.admin, missing)):
                with pytest.raises((errors.NotFound, errors.NoSuchClusterInterface)):
                    await nothing
        assert await world.sound("cidr:192.0.2.0/28")
