"""PATCH and If-Match against a real database: addresses stay, host maps follow in one generation, all or nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, DeferredList

from regiond.domain import errors, versions
from regiond.domain.accounts import Role
from regiond.domain.ids import Prefix, format_id
from regiond.domain.reservations import Reservation
from regiond.domain.views import DeviceView, NodeView, ReservationView
from regiond.progress import Progress
from regiond.storage.accounts import AccountStore
from regiond.storage.check import SubnetChecks
from regiond.storage.ranges import RangeStore
from regiond.storage.subnets import SubnetStore
from regiond.use_cases.accounts import Accounts
from regiond.use_cases.edits import Edits
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import Caller, RequestContext
from regiond.use_cases.subnets import Subnets
from tests.regiond.storage.region import new_id, region_on
from tests.regiond.test_repeated_requests import NETWORK, Requests, also_on

reactor: Any = global_reactor

MACS = [f"00:16:3e:00:00:{number:02x}" for number in range(1, 9)]


class Editor(Requests):
    """Requests that also change things."""

    def __init__(self, requests: Requests) -> None:
        self.__dict__.update(requests.__dict__)
        self.edits = Edits(self.region.writer, self.reads, self.claims, Progress(reactor, self.reads))

    def when(self, *tags: str, key: str | None = None) -> RequestContext:
        return replace(self.context(key, 0.0), if_match=frozenset(tags) if tags else None)

    async def of_device(self, *macs: str, hostname: str | None = None, duid: str | None = None) -> DeviceView:
        made, _ = await self.claims.create_device(
            self.context(wait=0.0),
            interface=NETWORK,
            macs=macs,
            duid=duid,
            address=None,
            hostname=hostname,
            owner=None,
            comment=None,
        )
        return await self.claims.device(self.context(), _id(made))

    async def edit_device(self, device: DeviceView, *tags: str, key: str | None = None, **changes: Any) -> DeviceView:
        return await self.edits.change_device(self.when(*tags, key=key), _id(device), changes=changes)

    async def of_node(self, hostname: str = "n1", *macs: str) -> NodeView:
        return await self.claims.create_node(self.context(), hostname=hostname, macs=macs, owner=None, comment=None)

    async def node_address(self, node: NodeView, mac: str | None = None, alias: str | None = None) -> Reservation:
        view, _ = await self.claims.claim_node_address(
            self.context(wait=0.0),
            _id(node),
            interface=NETWORK,
            mac=mac,
            alias=alias,
            client_id=None,
            duid=None,
            address=None,
            hostname=None,
        )
        return view.reservation

    async def edit_node(self, node: NodeView, *tags: str, **changes: Any) -> NodeView:
        return await self.edits.change_node(self.when(*tags), _id(node), changes=changes)

    async def user(self, **values: Any) -> ReservationView:
        given: dict[str, Any] = dict.fromkeys(
            ("address", "mac", "hostname", "purpose", "comment", "user", "expires_at")
        )
        (view,), _ = await self.claims.reserve(self.context(), interface=NETWORK, count=1, **(given | values))
        return view

    async def maps(self) -> dict[str, tuple[str, str | None, int]]:
        """The desired host maps: identifier → address, host name, generation."""
        rows = await self.region.pool.query(
            "SELECT encode(identifier, 'hex'), host(address), hostname, generation FROM host_map WHERE NOT removed"
        )
        return {row[0]: row[1:] for row in rows}

    async def generation(self) -> int:
        return int((await self.region.pool.query("SELECT generation FROM subnet"))[0][0])

    async def audited(self, action: str) -> list[tuple[Any, Any]]:
        rows = await self.region.pool.query("SELECT before, after FROM audit WHERE action = %s ORDER BY id", (action,))
        return [(row[0], row[1]) for row in rows]

    async def account(self, name: str) -> Caller:
        accounts = Accounts(reactor, AccountStore(self.region.pool))
        made = await accounts.create_account(self.context(), name=name, role=Role.USER)
        return Caller(made.id, made.name, is_admin=False, read_only=False)

    async def check(self) -> None:
        """The indexes that are kept are those that the rows give."""
        (subnet,) = await self.reads.subnets()
        assert await self.region.digest_is_right(subnet.id)
        assert await self.region.tiles([subnet.id])
        report = await SubnetChecks(self.region.pool).check(subnet.id)
        assert report.findings == ()


def _id(view: DeviceView | NodeView) -> str:
    return format_id(Prefix.DEVICE if isinstance(view, DeviceView) else Prefix.NODE, view.id)


def hexadecimal(mac: str) -> str:
    return mac.replace(":", "")


def version(device: DeviceView) -> str:
    held = [view.reservation for view in device.reservations]
    return versions.of_device(device.id, device.hostname, device.owner_name, device.comment, held)


def node_version(node: NodeView) -> str:
    return versions.of_node(node.id, node.hostname, node.owner_name, node.comment, node.macs)


@asynccontextmanager
async def editing(database: str) -> AsyncIterator[Editor]:
    async with region_on(database, reactor) as region:
        await region.cluster("rack-a", NETWORK)
        editor = Editor(Requests(region))
        yield editor
        await editor.check()


# ---- devices ----


@pytest_twisted.ensureDeferred
async def test_a_replaced_nic_keeps_the_address_in_one_generation(database: str) -> None:
    async with editing(database) as editor:
        device = await editor.of_device(MACS[0], MACS[1], hostname="web1")
        [before] = device.reservations
        generation = await editor.generation()
        changed = await editor.edit_device(device, macs=[MACS[2], MACS[1]])
        [after] = changed.reservations
        assert (after.reservation.id, after.reservation.address) == (before.reservation.id, before.reservation.address)
        assert after.reservation.macs == (MACS[2], MACS[1])
        assert await editor.generation() == generation + 1 == after.reservation.map_generation
        address = before.reservation.address
        assert await editor.maps() == {
            hexadecimal(MACS[1]): (address, "web1", generation),
            hexadecimal(MACS[2]): (address, "web1", generation + 1),
        }
        rows = await editor.region.pool.query(
            "SELECT encode(identifier, 'hex'), generation FROM host_map WHERE removed"
        )
        assert rows == [(hexadecimal(MACS[0]), generation + 1)]
        [(was, now)] = await editor.audited("device.change")
        assert (was, now) == ({"macs": [MACS[0], MACS[1]]}, {"macs": [MACS[1], MACS[2]]})


@pytest_twisted.ensureDeferred
async def test_the_old_nic_may_have_another_address_and_come_back(database: str) -> None:
    async with editing(database) as editor:
        device = await editor.of_device(MACS[0])
        await editor.edit_device(device, macs=[MACS[1]])
        other = await editor.of_device(MACS[0])
        assert other.reservations[0].reservation.address != device.reservations[0].reservation.address
        with pytest.raises(errors.IdentifierTaken) as taken:
            await editor.edit_device(device, macs=[MACS[0]])
        assert taken.value.members["holder"].device == other.id
        await editor.claims.delete_device(editor.when(), _id(other), force=True)
        back = await editor.edit_device(device, macs=[MACS[0]])
        assert back.reservations[0].reservation.macs == (MACS[0],)
        # a release after a replaced NIC removes what is there, and waits for both removals
        (resting,) = await editor.claims.delete_device(editor.when(), _id(device), force=False)
        assert resting.reservation.release_generation == await editor.generation()
        assert await editor.maps() == {}


@pytest_twisted.ensureDeferred
async def test_a_new_name_changes_the_host_maps_and_a_comment_does_not(database: str) -> None:
    async with editing(database) as editor:
        device = await editor.of_device(MACS[0], hostname="web1")
        generation = await editor.generation()
        changed = await editor.edit_device(device, comment="in rack 7")
        assert (changed.comment, await editor.generation()) == ("in rack 7", generation)
        changed = await editor.edit_device(device, hostname="web2")
        assert (changed.hostname, changed.reservations[0].reservation.hostname) == ("web2", "web2")
        [(_, name, raised)] = (await editor.maps()).values()
        assert (name, raised) == ("web2", generation + 1)
        assert (await editor.edit_device(device, hostname=None)).hostname is None
        same = await editor.edit_device(device, hostname=None, macs=[MACS[0]])
        assert same.hostname is None
        assert await editor.generation() == generation + 2
        assert len(await editor.audited("device.change")) == 3


@pytest_twisted.ensureDeferred
async def test_a_device_gets_another_owner_with_its_reservations(database: str) -> None:
    async with editing(database) as editor:
        alice = await editor.account("alice")
        device = await editor.of_device(MACS[0])
        generation = await editor.generation()
        changed = await editor.edit_device(device, owner="alice")
        assert changed.owner_name == "alice"
        assert changed.reservations[0].reservation.owner == alice.account
        assert await editor.generation() == generation
        hers = replace(editor.when(), caller=alice)
        assert (await editor.claims.device(hers, _id(device))).id == device.id
        with pytest.raises(errors.NotPermitted):
            await editor.edits.change_device(hers, _id(device), changes={"comment": "mine"})
        with pytest.raises(errors.NotFound):
            await editor.edit_device(device, owner="nobody-of-that-name")


@pytest_twisted.ensureDeferred
async def test_a_device_needs_an_identifier(database: str) -> None:
    async with editing(database) as editor:
        device = await editor.of_device(MACS[0])
        with pytest.raises(errors.InvalidRequest):
            await editor.edit_device(device, macs=[])
        assert len(await editor.maps()) == 1


@pytest_twisted.ensureDeferred
async def test_a_stale_version_changes_nothing(database: str) -> None:
    async with editing(database) as editor:
        device = await editor.of_device(MACS[0])
        old = version(device)
        new = version(await editor.edit_device(device, old, '"another"', macs=[MACS[1]]))
        assert new != old
        for change in ({"macs": [MACS[2]]}, {"comment": "x"}):
            with pytest.raises(errors.StaleVersion) as stale:
                await editor.edit_device(device, old, **change)
            assert stale.value.members["etag"] == new
        with pytest.raises(errors.StaleVersion):
            await editor.claims.delete_device(editor.when(old), _id(device), force=True)
        assert set(await editor.maps()) == {hexadecimal(MACS[1])}
        await editor.claims.delete_device(editor.when(new), _id(device), force=True)
        with pytest.raises(errors.NotFound):
            await editor.edit_device(device, new, comment="x")


@pytest_twisted.ensureDeferred
async def test_of_two_edits_of_one_version_at_once_one_is_made(database: str) -> None:
    async with editing(database) as ours, also_on(database, ours) as others:
        theirs = Editor(others)
        device = await ours.of_device(MACS[0])
        tag = version(device)
        work = [
            Deferred.fromCoroutine((ours, theirs)[number % 2].edit_device(device, tag, macs=[mac]))
            for number, mac in enumerate(MACS[1:])
        ]
        results: list[tuple[bool, Any]] = await DeferredList(work, consumeErrors=True)
        made = [result for good, result in results if good]
        assert len(made) == 1
        assert all(result.check(errors.StaleVersion) for good, result in results if not good)
        assert len(await ours.maps()) == 1


@pytest_twisted.ensureDeferred
async def test_a_repeated_key_is_one_edit(database: str) -> None:
    async with editing(database) as editor:
        device = await editor.of_device(MACS[0])
        for _ in range(2):
            changed = await editor.edit_device(device, version(device), key="key-1", macs=[MACS[1]])
            assert changed.reservations[0].reservation.macs == (MACS[1],)
        assert len(await editor.audited("device.change")) == 1


# ---- nodes ----


@pytest_twisted.ensureDeferred
async def test_a_replaced_nic_of_a_node_keeps_all_its_addresses(database: str) -> None:
    async with editing(database) as editor:
        node = await editor.of_node("n1", MACS[0])
        first = await editor.node_address(node, MACS[1])
        aliased = await editor.node_address(node, alias="eth0:1")
        generation = await editor.generation()
        changed = await editor.edit_node(node, replaced_macs={MACS[0]: MACS[2], MACS[1]: MACS[3]})
        assert changed.macs == (MACS[2],)
        assert await editor.generation() == generation + 1
        held = await editor.claims.list_node_addresses(editor.context(), _id(node))
        shown = {view.reservation.id: view.reservation for view in held}
        assert (shown[first.id].address, shown[first.id].macs) == (first.address, (MACS[3],))
        assert shown[aliased.id] == aliased
        with pytest.raises(errors.NotFound):
            await editor.edit_node(node, replaced_macs={MACS[0]: MACS[4]})
        [(_, now)] = await editor.audited("node.change")
        assert now["addresses"] == [format_id(Prefix.RESERVATION, first.id)]


@pytest_twisted.ensureDeferred
async def test_a_node_changes_its_name_macs_and_owner(database: str) -> None:
    async with editing(database) as editor:
        alice = await editor.account("alice")
        node, other = await editor.of_node("n1", MACS[0]), await editor.of_node("n2", MACS[1])
        held = await editor.node_address(node, MACS[2])
        with pytest.raises(errors.NameTaken):
            await editor.edit_node(node, hostname="n2")
        with pytest.raises(errors.IdentifierTaken):
            await editor.edit_node(node, macs=[MACS[0], MACS[1]])
        changed = await editor.edit_node(node, node_version(node), hostname="n3", macs=[MACS[3]], owner="alice")
        assert (changed.hostname, changed.macs, changed.owner_name) == ("n3", (MACS[3],), "alice")
        hers = replace(editor.when(), caller=alice)
        view = await editor.claims.node_address(hers, _id(node), format_id(Prefix.RESERVATION, held.id))
        assert view.reservation == replace(held, owner=alice.account, owner_name="alice")
        with pytest.raises(errors.StaleVersion):
            await editor.edit_node(node, node_version(node), comment="x")
        with pytest.raises(errors.StaleVersion):
            await editor.claims.delete_node(editor.when(node_version(node)), _id(node), force=True)
        with pytest.raises(errors.NotPermitted):
            await editor.edits.change_node(hers, _id(other), changes={"comment": "x"})
        await editor.claims.delete_node(editor.when(node_version(changed)), _id(node), force=True)


@pytest_twisted.ensureDeferred
async def test_an_address_that_comes_while_the_owner_changes_has_the_new_owner(database: str) -> None:
    """Claims and changes of the owner race through two regionds: nothing of the node is anybody else's at the end."""
    async with editing(database) as ours, also_on(database, ours) as others:
        theirs = Editor(others)
        await ours.account("alice")
        node = await ours.of_node("n1")
        work: list[Any] = []
        for number in range(30):
            work.append((ours, theirs)[number % 2].node_address(node, f"00:16:3e:00:01:{number:02x}"))
            if number % 10 == 5:
                work.append(theirs.edit_node(node, owner="alice" if number % 20 == 5 else ours_name(ours)))
        results: list[tuple[bool, Any]] = await DeferredList(
            [Deferred.fromCoroutine(one) for one in work], consumeErrors=True
        )
        assert all(good or result.check(errors.NotFound) for good, result in results)
        owner = (await ours.claims.node(ours.context(), _id(node))).owner
        held = await ours.claims.list_node_addresses(ours.context(), _id(node))
        assert held
        assert {view.reservation.owner for view in held} == {owner}


def ours_name(editor: Editor) -> str:
    return f"tester-{editor.region.owner}"


# ---- reservations ----


@pytest_twisted.ensureDeferred
async def test_a_user_reservation_is_changed_by_its_owner(database: str) -> None:
    async with editing(database) as editor:
        alice, bob = await editor.account("alice"), await editor.account("bob")
        view = await editor.user(user="alice", hostname="lb")
        id_ = format_id(Prefix.RESERVATION, view.reservation.id)
        until = view.reservation.created.replace(year=2090, microsecond=0)
        hers = replace(editor.when(versions.of_reservation(view.reservation)), caller=alice)
        changed = await editor.edits.change_reservation(
            hers, id_, changes={"comment": "x", "expires_at": until, "hostname": "LB2"}
        )
        stored = (await editor.claims.reservation(editor.context(), id_)).reservation
        assert changed.reservation == stored == replace(view.reservation, comment="x", expires_at=until, hostname="lb2")
        with pytest.raises(errors.StaleVersion):
            await editor.edits.change_reservation(hers, id_, changes={"comment": "y"})
        with pytest.raises(errors.StaleVersion):
            await editor.claims.release_reservation(hers, id_, force=False)
        with pytest.raises(errors.NotFound):
            await editor.edits.change_reservation(replace(hers, caller=bob), id_, changes={"comment": "y"})
        now = replace(hers, if_match=frozenset({versions.of_reservation(stored)}))
        assert await editor.claims.release_reservation(now, id_, force=False) == []
        with pytest.raises(errors.NotFound):
            await editor.edits.change_reservation(now, id_, changes={"comment": "y"})


@pytest_twisted.ensureDeferred
async def test_reservations_of_devices_and_nodes(database: str) -> None:
    async with editing(database) as editor:
        device, node = await editor.of_device(MACS[0]), await editor.of_node()
        held = await editor.node_address(node, MACS[1])
        id_ = format_id(Prefix.RESERVATION, device.reservations[0].reservation.id)
        with pytest.raises(errors.ChangedUnderOwner) as elsewhere:
            await editor.edits.change_reservation(editor.when(), id_, changes={"hostname": "x"})
        assert elsewhere.value.members["location"] == f"/api/v1/devices/{_id(device)}"
        id_ = format_id(Prefix.RESERVATION, held.id)
        with pytest.raises(errors.InvalidRequest):
            await editor.edits.change_reservation(editor.when(), id_, changes={"expires_at": None})
        generation = await editor.generation()
        changed = await editor.edits.change_reservation(editor.when(), id_, changes={"hostname": "n1-bmc"})
        assert changed.reservation.map_generation == generation + 1 == await editor.generation()
        assert (await editor.maps())[hexadecimal(MACS[1])] == (held.address, "n1-bmc", generation + 1)
        stale = editor.when(versions.of_reservation(held))
        with pytest.raises(errors.StaleVersion):
            await editor.claims.release_node_address(stale, _id(node), id_, force=False)
        await editor.claims.release_node_address(editor.when(), _id(node), id_, force=False)
        with pytest.raises(errors.BeingReleased):
            await editor.edits.change_reservation(editor.when(), id_, changes={"comment": "x"})


# ---- the rest ----


@pytest_twisted.ensureDeferred
async def test_subnets_ranges_accounts_and_tokens_have_versions(database: str) -> None:
    async with editing(database) as editor:
        pool = editor.region.pool
        inventory = Inventory(editor.reads, editor.claims._catalogue)
        subnets = Subnets(inventory, RangeStore(pool, new_id), SubnetStore(pool), SubnetChecks(pool))
        accounts = Accounts(reactor, AccountStore(pool))
        stale = editor.when('"stale"')
        (subnet,) = await inventory.subnets()
        id_ = format_id(Prefix.SUBNET, subnet.id)
        made = await subnets.add_range(
            editor.when(), id_, kind="reserved", low="192.0.2.50", high="192.0.2.60", comment=None, force=False
        )
        range_id = format_id(Prefix.ADDRESS_RANGE, made.id)
        alice = await editor.account("alice")
        token = await accounts.create_token(editor.when(), name="t", account="alice", read_only=False, expires_at=None)
        token_id = format_id(Prefix.TOKEN, token.token.id)
        for refused in (
            subnets.change_subnet(stale, id_, release_hold_seconds=1),
            subnets.change_range(stale, id_, range_id, changes={"comment": "x"}, force=False),
            subnets.remove_range(stale, id_, range_id),
            accounts.change_account(stale, "alice", changes={"disabled": True}),
            accounts.revoke_token(stale, token_id),
        ):
            with pytest.raises(errors.StaleVersion):
                await refused
        view = await accounts.account(editor.when(), "alice")
        account_tag = versions.of_account(
            alice.account, view.disabled, view.max_reservations, view.max_reservations_per_subnet
        )
        hold_tag = versions.of_subnet(
            subnet.id, subnet.release_hold_seconds, subnet.claimable_anyway, subnet.probe, subnet.claimants
        )
        await subnets.change_subnet(editor.when(hold_tag), id_, release_hold_seconds=1)
        await subnets.remove_range(editor.when(versions.of_range(made)), id_, range_id)
        await accounts.change_account(editor.when(account_tag), "alice", changes={"disabled": True})
        await accounts.revoke_token(editor.when(versions.of_token(token.token.id)), token_id)
