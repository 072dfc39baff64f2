"""A real Kea with included files, and what goes wrong: repaired, or told in the words of whoever refuses."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import capturedLogs

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.kea import include_files
from clusterd.dhcp.kea.backend import KeaBackend, kea_backend
from clusterd.dhcp.kea.include_text import render
from clusterd.dhcp.kea.settings import Way
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp.contract import ALIAS, BY_DUID, PLAIN, UNNAMED, numbered
from tests.clusterd.dhcp.kea.laboratory import CLIENT_MAC, OTHER_MAC, V4, in_thread
from tests.database import run_in_reactor
from tests.lab.dhcp_messages import Kind
from tests.lab.kea import KeaServers, kea
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4

pytestmark = pytest.mark.namespaces

SUBNET = "192.0.2.0/24"


@pytest.fixture
def servers(network: Network, tmp_path: Path) -> Iterator[KeaServers]:
    with kea(KeaServers(network, tmp_path, families=(4,))) as running:
        yield running


@pytest.fixture
def backend(servers: KeaServers) -> Iterator[KeaBackend]:
    made = kea_backend(servers.settings, reactor)
    yield made
    run_in_reactor(made.close)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of its own with room for next to nothing."""
    place = tmp_path / "include"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest_twisted.ensureDeferred
async def test_the_whole_server_stays_while_host_maps_change(backend: KeaBackend, servers: KeaServers) -> None:
    before = servers.identity(4)
    for number in range(5):
        await backend.apply((), {HostMap(Identifier.mac(f"00:16:3e:00:01:0{number}"), f"192.0.2.{60 + number}")})
    assert servers.identity(4) == before
    assert len(await backend.read()) == 5


@pytest_twisted.ensureDeferred
async def test_after_a_load_the_next_has_to_wait(servers: KeaServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(include_files, "SHORTEST_PAUSE_SECONDS", 3600.0)
    backend = kea_backend(servers.settings, reactor)
    await backend.read()
    assert backend.pause({V4}, {PLAIN}) == 0.0
    await backend.apply((), {V4})
    assert backend.pause({V4}, ()) > 1800.0
    assert backend.pause((), {PLAIN}) > 1800.0
    assert backend.pause((), {BY_DUID}) == 0.0  # another server's, where there is one


@pytest_twisted.ensureDeferred
async def test_a_file_edited_behind_our_back_is_put_right(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    path = servers.include_file(4, SUBNET)
    by_hand = {"hw-address": OTHER_MAC, "ip-address": "192.0.2.99"}
    path.write_text(path.read_text().replace("\n]", ",\n" + json.dumps(by_hand) + "\n]"))
    with capturedLogs() as logs:
        assert await backend.read() == {V4}
    assert [event["path"] for event in logs if event.get("event") == "kea.include-edited"] == [str(path)]
    assert path.read_text() == render({V4})


@pytest_twisted.ensureDeferred
async def test_an_edit_that_was_loaded_is_taken_back(backend: KeaBackend, servers: KeaServers, v4: RawClient4) -> None:
    await backend.apply((), {V4})
    path = servers.include_file(4, SUBNET)
    by_hand = {"hw-address": OTHER_MAC, "ip-address": "192.0.2.99"}
    path.write_text(path.read_text().replace("\n]", ",\n" + json.dumps(by_hand) + "\n]"))
    servers.stop(4)
    servers.start(4)
    answer = await in_thread(v4.discover, OTHER_MAC)
    assert answer is not None and answer.address == "192.0.2.99"
    assert await backend.read() == {V4}
    assert await in_thread(v4.discover, OTHER_MAC) is None
    assert path.read_text() == render({V4})


@pytest_twisted.ensureDeferred
async def test_what_the_server_would_not_read_is_rejected_and_nothing_is_loaded(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    """The subnet has become another one, and what is included there is the file of the former one."""
    await backend.apply((), {V4})
    config = servers.config_file(4)
    config.write_text(config.read_text().replace(f'"subnet": "{SUBNET}"', '"subnet": "192.0.2.0/25"'))
    servers.stop(4)
    servers.start(4)
    assert await backend.read() == {V4}
    loads = servers.log(4).count("DHCP4_CONFIG_COMPLETE")
    rejections = await backend.apply({V4}, {UNNAMED})
    assert {rejection.host_map for rejection in rejections} == {V4, UNNAMED}
    words = f'write there, in that subnet, "reservations": <?include "{servers.include_file(4, "192.0.2.0/25")}"?>'
    assert all(rejection.reason.endswith(words) for rejection in rejections), rejections
    assert await backend.verify({V4, UNNAMED}) == {V4}
    assert servers.log(4).count("DHCP4_CONFIG_COMPLETE") == loads


@pytest_twisted.ensureDeferred
async def test_a_file_spoilt_so_that_the_server_cannot_start_is_put_right_while_it_is_down(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    path = servers.include_file(4, SUBNET)
    servers.stop(4, how=SIGKILL)
    path.write_text("[ this is not for Kea ]")
    with pytest.raises(BackendError, match="kea-dhcp4 does not answer"):
        await kea_backend(servers.settings, reactor).read()
    assert path.read_text() == render({V4})
    servers.start(4)
    assert await backend.read() == {V4}
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, V4.address)


@pytest_twisted.ensureDeferred
async def test_a_host_map_that_the_server_refuses_is_found_among_others(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    """The operator has made the subnet smaller and not loaded it yet."""
    config = servers.config_file(4)
    config.write_text(config.read_text().replace('"subnet": "192.0.2.0/24"', '"subnet": "192.0.2.0/25"'))
    outside = [HostMap(Identifier.mac(f"00:16:3e:00:01:0{number}"), f"192.0.2.20{number}") for number in (1, 2)]
    rejections = {one.host_map: one.reason for one in await backend.apply((), {V4, PLAIN, *outside})}
    assert set(rejections) == set(outside)
    assert "kea-dhcp4: specified reservation '192.0.2.201' is not within the IPv4 subnet" in rejections[outside[0]]
    assert await backend.read() == {V4, PLAIN}
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address


@pytest_twisted.ensureDeferred
async def test_a_configuration_that_the_server_refuses_is_never_loaded(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    good = servers.config_file(4).read_text()
    servers.configure(4, {"no-such-key": 1})
    with pytest.raises(BackendError, match=r"kea-dhcp4 refuses .*kea-dhcp4\.conf as it stands: .*no-such-key"):
        await backend.apply((), {PLAIN})
    assert servers.include_file(4, SUBNET).read_text() == render({V4})
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address
    servers.config_file(4).write_text("{ no JSON")
    with pytest.raises(BackendError, match=r"kea-dhcp4\.conf is not what Kea could read"):
        await backend.apply((), {PLAIN})
    [sentence] = await backend.check()
    assert "is not what Kea could read" in sentence
    servers.config_file(4).write_text(good)
    assert await backend.apply((), {PLAIN}) == ()
    assert await backend.read() == {V4, PLAIN}


@pytest_twisted.ensureDeferred
async def test_a_reload_that_is_refused_is_taken_back_and_the_server_goes_on(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    """config-test does not open the lease database: with one that cannot be, the test passes, and loading fails."""
    await backend.apply((), {V4})
    good = servers.config_file(4).read_text()
    servers.configure(4, {"lease-database": {"type": "memfile", "name": "/nonexistent/leases.csv"}})
    with capturedLogs() as logs, pytest.raises(BackendError, match=r"kea-dhcp4 refuses config-reload: .*nonexistent"):
        await backend.apply((), {PLAIN})
    assert [event["event"] for event in logs if event.get("event") == "kea.reload-refused"] == ["kea.reload-refused"]
    assert servers.include_file(4, SUBNET).read_text() == render({V4})
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, V4.address)
    servers.config_file(4).write_text(good)
    assert await backend.apply((), {PLAIN}) == ()
    assert await backend.read() == {V4, PLAIN}


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_told_and_what_is_served_stays(full_disk: Path, network: Network, tmp_path: Path) -> None:
    with kea(KeaServers(network, tmp_path, families=(4,))) as servers:
        backend = kea_backend(servers.settings, reactor)
        await backend.apply((), {V4})
        with pytest.raises(BackendError, match=r"cannot write below .*/include: No space left on device"):
            await backend.apply((), numbered(1000))
        assert await backend.read() == {V4}
        assert await backend.apply({V4}, {PLAIN}) == ()
        assert await backend.read() == {PLAIN}


@pytest_twisted.ensureDeferred
async def test_a_file_that_somebody_else_wrote_is_left_alone(backend: KeaBackend, servers: KeaServers) -> None:
    path = servers.include_file(4, SUBNET)
    text = '[ { "hw-address": "00:16:3e:00:00:77", "ip-address": "192.0.2.77" } ]'
    path.write_text(text)
    servers.stop(4)
    servers.start(4)
    for call in (backend.read, lambda: backend.apply((), {PLAIN})):
        with pytest.raises(BackendError, match=r"dhcp4-192\.0\.2\.0-24\.json was not written by clusterd"):
            await call()
    assert path.read_text() == text


@pytest_twisted.ensureDeferred
async def test_a_subnet_that_does_not_include_its_file_is_told_how(backend: KeaBackend, servers: KeaServers) -> None:
    path = servers.include_file(4, SUBNET)
    config = servers.config_file(4)
    config.write_text(config.read_text().replace(f'<?include "{path}"?>', "[]"))
    servers.stop(4)
    servers.start(4)
    [sentence] = await backend.check()
    assert sentence.endswith(f'write there, in that subnet, "reservations": <?include "{path}"?>.')
    elsewhere = HostMap(PLAIN.identifier, "198.51.100.11")
    [rejection] = await backend.apply((), {PLAIN, elsewhere})
    assert (rejection.host_map, rejection.reason + ".") == (PLAIN, sentence)
    assert await backend.read() == {elsewhere}


@pytest_twisted.ensureDeferred
async def test_one_client_per_address_where_the_server_wants_it_so(backend: KeaBackend, servers: KeaServers) -> None:
    servers.configure(4, {"ip-reservations-unique": True})
    servers.stop(4)
    servers.start(4)
    other = HostMap(UNNAMED.identifier, PLAIN.address)
    await backend.apply((), {PLAIN})
    [rejection] = await backend.apply((), {other, ALIAS})
    assert (rejection.host_map, rejection.reason[:32]) == (other, "Kea takes one client per address")
    assert await backend.read() == {PLAIN, ALIAS}


@pytest_twisted.ensureDeferred
async def test_a_way_can_be_forced(servers: KeaServers) -> None:
    forced = kea_backend(servers.settings.model_copy(update={"way": Way.HOSTS_DATABASE}), reactor)
    with pytest.raises(BackendError, match="cannot be given host maps by hosts-database: its configuration names no"):
        await forced.read()
    [sentence] = await forced.check()
    assert "names no hosts-database of type postgresql" in sentence


@pytest_twisted.ensureDeferred
async def test_more_than_can_be_loaded_in_time_is_refused(backend: KeaBackend) -> None:
    await backend.read()
    assert backend.capabilities.max_host_maps == 20_000
    with pytest.raises(BackendError, match="20001 host maps are more than the 20000"):
        await backend.replace(numbered(20_001))
