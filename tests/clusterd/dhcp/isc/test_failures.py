"""The backend `isc` when dhcpd is away, forgot, was tampered with, or refuses: with the real server."""

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.isc.backend import IscBackend
from clusterd.dhcp.isc.omapi_client import LONGEST_PAUSE_SECONDS
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp import driven_contract
from tests.clusterd.dhcp.contract import numbered
from tests.clusterd.dhcp.isc.test_real import NET4, OTHER_MAC, V4, V6
from tests.lab.dhcpd import DhcpdServer, dhcpd
from tests.lab.isc_fixtures import CLIENT_MAC, backend, in_thread, network, server, v4
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.raw_v6 import RawClient6
from tests.lab.site import DrivenSite
from tests.requirements import need
from tests.waiting import until

__all__ = ["backend", "network", "server", "v4"]

pytestmark = pytest.mark.namespaces

OTHER = HostMap(Identifier.mac(OTHER_MAC), "192.0.2.51", "bench-2")


async def reads(backend: IscBackend, expected: set[HostMap]) -> bool:
    try:
        return await backend.read() == expected
    except BackendError:
        return False


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_away_is_an_error_until_it_is_back(
    backend: IscBackend, server: DhcpdServer, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    await in_thread(server.kill)
    for call in (lambda: backend.apply((), {OTHER}), backend.read):
        with pytest.raises(BackendError, match=r"dhcpd (closed its OMAPI connection|cannot be reached over OMAPI at)"):
            await call()
    [sentence] = await backend.check()
    assert sentence.startswith("dhcpd cannot be reached over OMAPI at 127.0.0.1:7911 (")
    assert sentence.endswith("and does its configuration say omapi-port?")
    await in_thread(server.start)
    await until(lambda: Deferred.fromCoroutine(reads(backend, {V4})), seconds=2 * LONGEST_PAUSE_SECONDS)
    await backend.apply((), {OTHER})
    answer = await in_thread(v4.discover, OTHER_MAC)
    assert answer is not None and answer.address == OTHER.address
    assert await backend.check() == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_lost_its_state_is_given_it_again(
    backend: IscBackend, server: DhcpdServer, v4: RawClient4, tmp_path: Path
) -> None:
    """Restarted behind our back without its leases file: noticed with the next change at the latest."""
    site = DrivenSite(tmp_path, backend, reactor)
    await site.start()
    try:
        await site.change(NET4, [V4])
        await in_thread(server.stop)
        server.leases_file.write_text("")
        await in_thread(server.start)
        assert await in_thread(v4.discover, CLIENT_MAC) is None
        await site.change(NET4, [OTHER])
        assert site.state(NET4).error is None
    finally:
        await site.stop()
    for host_map in (V4, OTHER):
        answer = await in_thread(v4.discover, host_map.identifier.text)
        assert answer is not None and answer.address == host_map.address


@pytest_twisted.ensureDeferred
async def test_an_edited_leases_file_is_put_right(backend: IscBackend, server: DhcpdServer, v4: RawClient4) -> None:
    """An address changed, a host of ours that is none of ours, and one of somebody else, which stays."""
    await backend.apply((), {V4, OTHER})
    await in_thread(server.stop)
    text = server.leases_file.read_text().replace(f"fixed-address {V4.address};", "fixed-address 192.0.2.99;")
    strays = (
        "host hostmap-nonsense {\n  dynamic;\n  hardware ethernet 00:16:3e:aa:00:44;\n  fixed-address 192.0.2.44;\n}\n"
        "host theirs {\n  dynamic;\n  hardware ethernet 00:16:3e:aa:00:45;\n  fixed-address 192.0.2.45;\n}\n"
    )
    server.leases_file.write_text(text + strays)
    await in_thread(server.start)
    edited = HostMap(V4.identifier, "192.0.2.99", V4.hostname)
    assert await backend.read() == {edited, OTHER}
    assert await backend.replace({V4, OTHER}) == ()
    assert await backend.read() == {V4, OTHER}
    for mac, expected in ((CLIENT_MAC, V4.address), ("00:16:3e:aa:00:44", None), ("00:16:3e:aa:00:45", "192.0.2.45")):
        answer = await in_thread(v4.discover, mac)
        assert (answer.address if answer is not None else None) == expected


@pytest_twisted.ensureDeferred
async def test_what_the_leases_file_lacks_and_dhcpd_has_is_written_again_or_removed(
    backend: IscBackend, server: DhcpdServer, v4: RawClient4
) -> None:
    """The file was emptied under the running server."""
    await backend.apply((), {V4, OTHER})
    server.leases_file.write_text("")
    assert await backend.read() == frozenset()
    assert await backend.apply({OTHER}, {V4}) == ()
    assert await backend.read() == {V4}
    assert await backend.verify({V4, OTHER}) == {V4}
    assert await in_thread(v4.discover, OTHER_MAC) is None
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address


@pytest_twisted.ensureDeferred
async def test_a_leases_file_that_dhcpd_does_not_write_is_found_out(backend: IscBackend, server: DhcpdServer) -> None:
    text = server.leases_file.read_text()
    server.leases_file.unlink()
    server.leases_file.write_text(text)  # as an editor saves: dhcpd goes on with the file that it has open
    [sentence] = await backend.check()
    assert sentence.startswith(f"dhcpd took a host over OMAPI, and {server.leases_file} does not show it")
    server.leases_file.unlink()
    with pytest.raises(BackendError, match=r"leases file .*/dhcpd\.leases cannot be read: No such file or directory"):
        await backend.read()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB: the copy of the program takes most of it."""
    need(os.geteuid() == 0, "mounting a small file system needs root")
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount_point)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    need(mounted.returncode == 0, f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


class TroubledDhcpd:
    """All its files are on a small disk of their own."""

    words_when_away = r"^dhcpd (closed its OMAPI connection|cannot be reached over OMAPI at )"
    words_when_full = r"^dhcpd: .*: it could not write its leases file$"
    refused = (
        HostMap(Identifier.mac("00:16:3e:aa:01:0f"), "192.0.2.66"),
        r"^dhcpd: its host 'theirs', which is not ours, is for the same client",
    )

    def __init__(self, server: DhcpdServer, backend: IscBackend, disk: Path, client: RawClient4) -> None:
        self.backend = backend
        self.server = server
        self._ballast = disk / "ballast"
        self._client = client

    def new_backend(self) -> IscBackend:
        return self.server.backend(reactor)

    async def written(self) -> object:
        return driven_contract.version_of(self.server.leases_file, self.server.include_file)

    async def serves(self, host_map: HostMap) -> bool:
        answer = await in_thread(self._client.discover, host_map.identifier.text)
        return answer is not None and answer.address == host_map.address

    async def lose(self, host_map: HostMap) -> None:
        await self._by_somebody_else(lambda other: other.apply({host_map}, ()))

    async def lose_everything(self) -> None:
        self.server.leases_file.write_text("")

    async def stop(self) -> None:
        await in_thread(self.server.kill)

    async def start(self) -> None:
        await in_thread(self.server.start)

    async def fill_disk(self) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        # What is left is room in the last page of the leases file itself.
        with pytest.raises(BackendError):
            await self._by_somebody_else(lambda other: other.apply((), numbered(100)))

    async def free_disk(self) -> None:
        self._ballast.unlink()

    async def _by_somebody_else(self, work: Callable[[IscBackend], Awaitable[object]]) -> None:
        other = self.server.backend(reactor)
        try:
            await work(other)
        finally:
            await other.close()


@pytest_twisted.async_yield_fixture
async def troubled(network: Network, small_disk: Path) -> AsyncIterator[TroubledDhcpd]:
    theirs = "host theirs { hardware ethernet 00:16:3e:aa:01:0f; fixed-address 192.0.2.90; }"
    with dhcpd(network, small_disk, more=[theirs]) as server, RawClient4(network) as client:
        backend = server.backend(reactor)
        yield TroubledDhcpd(server, backend, small_disk, client)
        await backend.close()


@pytest.mark.parametrize("scenario", driven_contract.SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_driven_contract(scenario: driven_contract.Scenario, troubled: TroubledDhcpd, tmp_path: Path) -> None:
    async with driven_contract.driven(troubled, tmp_path) as site:
        await scenario(troubled, site)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'key hostmap { algorithm hmac-sha256; secret "bm90IHRoZSByaWdodCBzZWNyZXQgYXQgYWxs"; };',
            "not signed with our",
        ),
        (
            'key nobody { algorithm hmac-sha256; secret "bm90IHRoZSByaWdodCBzZWNyZXQgYXQgYWxs"; };',
            "not accept the OMAPI",
        ),
        ("", "The OMAPI key cannot be used"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_key_is_said(text: str, words: str, server: DhcpdServer) -> None:
    server.key_file.write_text(text)
    backend = server.backend(reactor)
    try:
        [sentence] = await backend.check()
        assert words in sentence
        assert "bm90" not in sentence
        with pytest.raises(BackendError):
            await backend.read()
    finally:
        await backend.close()


# ---- IPv6 ----


@pytest_twisted.ensureDeferred
async def test_a_configuration_that_the_checker_refuses_restarts_nothing(
    backend: IscBackend, server: DhcpdServer
) -> None:
    await backend.apply((), {V6})
    before, written = server.identity6, server.include_file.read_text()
    with server.configuration_file6.open("a") as file:
        file.write("subnet6 nonsense\n")
    moved = HostMap(V6.identifier, "2001:db8:0:1::51")
    with pytest.raises(BackendError, match=r"dhcpd's own check refuses .*/dhcpd6\.conf: .* line \d+: Invalid IPv6"):
        await backend.apply({V6}, {moved})
    assert (server.identity6, server.include_file.read_text()) == (before, written)
    assert await backend.verify({V6, moved}) == {V6}
    [sentence] = await backend.check()
    assert "Invalid IPv6 address" in sentence


@pytest_twisted.ensureDeferred
async def test_on_a_full_disk_the_ipv6_host_maps_stay_as_they_are(troubled: TroubledDhcpd) -> None:
    await troubled.backend.apply((), {V6})
    before, new = troubled.server.identity6, HostMap(Identifier.mac(OTHER_MAC), "2001:db8:0:1::51")
    await troubled.fill_disk()
    with pytest.raises(BackendError, match=r"cannot write /.*: No space left on device$"):
        await troubled.backend.apply((), {new})
    assert await troubled.backend.verify({V6, new}) == {V6}
    assert troubled.server.identity6 == before
    await troubled.free_disk()
    assert await troubled.backend.apply((), {new}) == ()
    assert await troubled.backend.verify({V6, new}) == {V6, new}


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_come_back_is_started_with_what_it_had(
    network: Network, backend: IscBackend, server: DhcpdServer
) -> None:
    """The restart ends it and refuses: the former host maps are served again, and the words are the command's."""
    await backend.apply((), {V6})
    restart = server.restart_command.read_text()
    guard = f"if grep -q 2001:db8:0:1::51 {server.include_file}; then\n"
    stop = f"  kill -9 $(cat {server.pid_file6}); echo the unit is masked >&2; exit 1\nfi\n"
    server.restart_command.write_text(restart.replace("#!/bin/sh\n", f"#!/bin/sh\n{guard}{stop}"))
    before = server.identity6
    moved = HostMap(V6.identifier, "2001:db8:0:1::51")
    with pytest.raises(BackendError, match="did not restart dhcpd for IPv6: the unit is masked"):
        await backend.apply({V6}, {moved})
    assert server.identity6 != before
    assert await backend.read() == {V6}
    with RawClient6(network) as client:
        answer = await in_thread(client.solicit, V6.identifier.value)
    assert answer is not None and answer.addresses == (V6.address,)


@pytest_twisted.ensureDeferred
async def test_an_edited_include_file_is_put_right(backend: IscBackend, server: DhcpdServer) -> None:
    await backend.apply((), {V6})
    written = server.include_file.read_text()
    server.include_file.write_text(written.replace("::50", "::99"))
    assert await backend.read() == {V6}
    assert server.include_file.read_text() == written
    server.include_file.write_text("host theirs { }\n")
    with pytest.raises(BackendError, match="was not written by clusterd and is left alone"):
        await backend.read()
    assert server.include_file.read_text() == "host theirs { }\n"


@pytest_twisted.ensureDeferred
async def test_ipv6_maps_without_a_server_are_an_error(backend: IscBackend, server: DhcpdServer) -> None:
    await in_thread(server.kill6)
    with pytest.raises(BackendError, match=r"dhcpd is not running: .*dhcpd6\.pid"):
        await backend.read()
    [sentence] = await backend.check()
    assert "dhcpd is not running" in sentence
