"""Clusters get other names, and are told whether to serve a network."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.errors import ClusterRefused
from regiond.domain.identity import ByCertificate, ByName, Introduction, parse_enrolment_token
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.mutations import Actor
from regiond.domain.reservations import MapState
from regiond.domain.views import InterfaceView
from regiond.storage.certificates import CertificateStore, Issued
from regiond.storage.changes import Change
from regiond.storage.cluster_edits import ClusterEditStore
from regiond.storage.networks import NetworkStore
from regiond.storage.pairs import PairStore
from regiond.storage.pool import Session
from regiond.storage.vrfs import VrfStore
from regiond.use_cases.cluster_edits import ClusterEdits
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.vrfs import Vrfs
from tests.regiond.storage.region import new_id
from tests.regiond.use_cases.test_pairs import NET, Wire, report, wire
from tests.regiond.whole import Whole, whole_region
from tests.waiting import until

SAID = Introduction("host", "file", "0")
MAC = Identifier.mac("00:16:3e:00:00:01")


# ---- names ----


async def registers(whole: Whole, name: str) -> int:
    return (await whole.region.clusters.register(ByName(name), SAID)).cluster


async def enrols(whole: Whole, offer: Any) -> ByCertificate:
    """What a host with this enrolment token is from then on."""
    token = parse_enrolment_token(offer["token"])
    assert token is not None
    now = datetime.now(UTC)
    issued = Issued(f"{new_id():x}", now + timedelta(days=1), "PEM")
    change = Change(Actor(None, "region", is_admin=True), "test")
    store = CertificateStore(whole.pool, new_id)
    enrolled = await store.enrol(change, token.id, token.secret, lambda cluster, name: issued)
    return ByCertificate(enrolled.cluster, enrolled.name, issued.serial, now, issued.expires)


async def names(whole: Whole) -> set[str]:
    return {each["name"] for each in await whole.done("GET", "/clusters")}


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_says_its_own_name_goes_on_being_the_same_one(database: str, tmp_path: Path) -> None:
    async with whole_region(database, tmp_path) as whole:
        cluster = await whole.cluster("rack-a", NET)
        path = f"/clusters/{format_id(Prefix.CLUSTER, cluster)}"
        tag = (await whole.ask("GET", path)).headers["etag"]
        renamed = await whole.ask("PATCH", path, {"name": "Rack-B"}, headers={"if-match": tag})
        assert (renamed.status, renamed.json["name"]) == (200, "rack-b")
        assert renamed.headers["etag"] != tag
        stale = await whole.ask("PATCH", path, {"name": "rack-c"}, headers={"if-match": tag})
        assert stale.status == 412
        assert await registers(whole, "rack-a") == cluster
        assert await names(whole) == {"rack-b"}
        # Another host that says the new name is not taken for this one; a third name is another cluster's.
        with pytest.raises(ClusterRefused, match="says rack-a of itself"):
            await registers(whole, "rack-b")
        other = await registers(whole, "rack-z")
        assert other != cluster
        for name in ("rack-a", "rack-b"):
            taken = await whole.ask("PATCH", "/clusters/rack-z", {"name": name})
            assert (taken.status, taken.json["type"]) == (409, "name-taken")
        # A selector has to use the new name.
        assert (await whole.ask("GET", "/cluster-interfaces?selector=rack-a:eth0")).json == []
        claimed = await whole.ask("POST", "/reservations", {"interface": "rack-b:eth0"})
        assert claimed.status == 201
        gone = await whole.ask("POST", "/reservations", {"interface": "rack-a:eth0"})
        assert (gone.status, gone.json["type"]) == (404, "no-such-cluster-interface")
        # The way back, and there is nothing left of it.
        await whole.done("PATCH", "/clusters/rack-b", {"name": "rack-a"})
        assert await registers(whole, "rack-a") == cluster
        assert await registers(whole, "rack-b") not in (cluster, other)
        audited = await whole.done("GET", f"/audit?action=cluster.change&object={path.rpartition('/')[2]}")
        assert [(each["before"], each["after"]) for each in audited] == [
            ({"name": "rack-b"}, {"name": "rack-a"}),
            ({"name": "rack-a"}, {"name": "rack-b"}),
        ]


@pytest_twisted.ensureDeferred
async def test_an_enrolled_cluster_is_who_its_certificate_says(database: str, tmp_path: Path) -> None:
    async with whole_region(database, tmp_path) as whole:
        shown = await enrols(whole, await whole.done("POST", "/clusters/rack-a/enrolment", {}))
        again = await whole.done("POST", "/clusters/rack-a/enrolment", {})
        waits = await whole.done("POST", "/clusters/rack-c/enrolment", {})
        promised = await whole.ask("PATCH", "/clusters/rack-a", {"name": "rack-c"})
        assert promised.status == 409 and "withdraw it first" in promised.json["detail"]
        await whole.done("PATCH", "/clusters/rack-a", {"name": "rack-b"})
        assert (await whole.region.clusters.register(shown, SAID)).name == "rack-b"
        # A token that was made before the renaming enrols the same cluster, and its name is free for another one.
        assert (await enrols(whole, again)).cluster == shown.cluster
        assert (await enrols(whole, waits)).cluster != shown.cluster
        anew = await enrols(whole, await whole.done("POST", "/clusters/rack-a/enrolment", {}))
        assert anew.cluster != shown.cluster
        assert await names(whole) == {"rack-a", "rack-b", "rack-c"}


@pytest_twisted.ensureDeferred
async def test_a_name_and_a_vrf_change_together_or_not_at_all(database: str, tmp_path: Path) -> None:
    async with whole_region(database, tmp_path) as whole:
        await whole.cluster("rack-a", NET)
        await whole.cluster("rack-b", NET)
        await whole.done("POST", "/vrfs", {"name": "blue"})
        left = await whole.ask("PATCH", "/clusters/rack-a", {"name": "rack-c", "vrf": "blue"})
        assert (left.status, left.json["type"]) == (409, "subnets-left-behind")
        assert await names(whole) == {"rack-a", "rack-b"}
        moved = await whole.done("PATCH", "/clusters/rack-a?force=true", {"name": "rack-c", "vrf": "blue"})
        assert (moved["name"], moved["vrf"]) == ("rack-c", "blue")
        mistakes: list[tuple[Any, str]] = [({}, ""), ({"name": None}, ""), ({"up": 1}, "/up")]
        mistakes += [({"name": "no name"}, "/name"), ({"name": "cl-0123456789"}, "/name")]
        for body, pointer in mistakes:
            refused = await whole.ask("PATCH", "/clusters/rack-c", body)
            assert (refused.status, refused.json["errors"][0]["pointer"]) == (400, pointer), body


@pytest_twisted.ensureDeferred
async def test_a_forgotten_cluster_leaves_nothing_of_its_names(database: str, tmp_path: Path) -> None:
    async with whole_region(database, tmp_path) as whole:
        cluster = await registers(whole, "rack-a")
        await whole.done("PATCH", "/clusters/rack-a", {"name": "rack-b"})
        await whole.done("DELETE", "/clusters/rack-b")
        assert await registers(whole, "rack-a") != cluster
        assert await registers(whole, "rack-b") != cluster


# ---- whether a network is served ----


def edits_on(on: Wire) -> tuple[ClusterEdits, Inventory]:
    inventory, pool = on.pairs._inventory, on.at.region.pool

    async def changed(clusters: Any) -> None:
        for cluster in clusters:
            await on.at.dispatch.holdings_changed(cluster)

    vrfs = Vrfs(inventory, VrfStore(pool, new_id), NetworkStore(pool, new_id), changed)
    return ClusterEdits(inventory, vrfs, ClusterEditStore(pool, new_id), PairStore(pool), changed), inventory


async def interface_of(inventory: Inventory, cluster: str) -> InterfaceView:
    [found] = await inventory.interfaces(f"{cluster}:eth0")
    return found


@pytest_twisted.ensureDeferred
async def test_a_name_that_somebody_else_gets_at_the_same_moment_is_taken(database: str, tmp_path: Path) -> None:
    async with whole_region(database, tmp_path) as whole:
        path = f"/clusters/{format_id(Prefix.CLUSTER, await whole.cluster('rack-a', NET))}"

        has_name: Deferred[None] = Deferred()
        may_commit: Deferred[None] = Deferred()

        async def register(session: Session) -> None:
            await session.run("INSERT INTO cluster (id, name) VALUES (%s, 'rack-b')", (new_id(),))
            has_name.callback(None)
            await may_commit

        registering = Deferred.fromCoroutine(whole.pool.transaction(register))
        await has_name
        renaming = Deferred.fromCoroutine(whole.ask("PATCH", path, {"name": "rack-b"}))
        await until(lambda: waits_for_another(whole))
        may_commit.callback(None)
        await registering
        refused = await renaming
        assert (refused.status, refused.json["type"].rpartition("/")[2]) == (409, "name-taken")
        assert await names(whole) == {"rack-a", "rack-b"}


async def waits_for_another(whole: Whole) -> bool:
    sql = "SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid' AND datname = current_database()"
    return bool(await whole.pool.query(sql))


@pytest_twisted.ensureDeferred
async def test_an_admin_says_which_cluster_serves_a_network(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        edits, inventory = edits_on(on)
        claimed = await on.at.region.do(on.at.region.device(on.subnet, MAC))
        assert await on.at.settled(claimed) == (MapState.APPLIED, None)
        first, second = [
            format_id(Prefix.CLUSTER_INTERFACE, (await interface_of(inventory, name)).id)
            for name in ("rack-a", "rack-b")
        ]
        assert (await edits.change_interface(on.admin, second, serve=True)).serving == "serving"
        await until(lambda: on.second.backend.maps == on.first.backend.maps)
        assert (await edits.change_interface(on.admin, first, serve=False)).serving == "declined"
        await until(lambda: not on.first.backend.maps)
        assert len(on.second.backend.maps) == 1

        with pytest.raises(errors.LastServing, match="the only one"):
            await edits.change_interface(on.admin, second, serve=False)
        assert (await edits.change_interface(on.admin, second, serve=False, force=True)).serving == "declined"
        await until(lambda: not on.second.backend.maps)
        await report(on.first, "192.0.2.1")
        await report(on.second, "192.0.2.2")
        assert await on.serving_states() == {"rack-a": "declined", "rack-b": "declined"}, "no report changes it"
        unserved = await on.at.region.do(on.at.region.device(on.subnet, Identifier.mac("00:16:3e:00:00:02")))
        (view,) = await on.at.progress.settled(unserved, 0.0)
        assert view.progress == ()

        assert (await edits.change_interface(on.admin, first, serve=True)).serving == "serving"
        await until(lambda: len(on.first.backend.maps) == 2)
        assert not on.second.backend.maps


@pytest_twisted.ensureDeferred
async def test_what_stands_in_the_way_of_serving(database: str, tmp_path: Path) -> None:
    async with whole_region(database, tmp_path) as whole:
        await whole.cluster("rack-a", NET)
        await whole.cluster("rack-b", "192.0.2.0/25")
        interfaces = await whole.done("GET", "/cluster-interfaces")
        [conflict] = [each for each in interfaces if each["serving"] == "conflict"]
        refused = await whole.ask("PATCH", f"/cluster-interfaces/{conflict['id']}", {"serve": True})
        assert (refused.status, refused.json["type"]) == (409, "cluster-not-on-subnet")
        assert "overlaps" in refused.json["detail"]
        [own] = await whole.done("GET", "/cluster-interfaces?selector=rack-a:eth0")
        path = f"/cluster-interfaces/{own['id']}"
        assert (await whole.ask("GET", path)).headers["etag"] == own["etag"]
        last = await whole.ask("PATCH", path, {"serve": False})
        assert (last.status, last.json["type"]) == (409, "last-serving-cluster")
        declined = await whole.ask("PATCH", f"{path}?force=true", {"serve": False}, headers={"if-match": own["etag"]})
        assert (declined.status, declined.json["serving"]) == (200, "declined")
        stale = await whole.ask("PATCH", path, {"serve": True}, headers={"if-match": own["etag"]})
        assert stale.status == 412
        for body in ({}, {"serve": None}, {"serve": "yes"}, {"serve": True, "up": True}):
            assert (await whole.ask("PATCH", path, body)).status == 400, body
        missing = format_id(Prefix.CLUSTER_INTERFACE, (parse_id(Prefix.CLUSTER_INTERFACE, own["id"]) or 0) ^ 1)
        assert (await whole.ask("PATCH", f"/cluster-interfaces/{missing}", {"serve": True})).status == 404
        [audited] = await whole.done("GET", "/audit?action=cluster-interface.change")
        assert (audited["object"], audited["before"], audited["after"]) == (
            own["id"],
            {"serving": "serving"},
            {"serving": "declined"},
        )


@pytest_twisted.ensureDeferred
async def test_only_an_admin_changes_a_cluster(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        edits, inventory = edits_on(on)
        user = replace(on.admin, caller=replace(on.admin.caller, is_admin=False))
        interface = format_id(Prefix.CLUSTER_INTERFACE, (await interface_of(inventory, "rack-a")).id)
        with pytest.raises(errors.NotPermitted):
            await edits.change_cluster(user, "rack-a", name="rack-c")
        with pytest.raises(errors.NotPermitted):
            await edits.change_interface(user, interface, serve=False)
