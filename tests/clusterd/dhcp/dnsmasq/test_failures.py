"""The backend `dnsmasq` behind the driver, with a real dnsmasq in trouble."""

import re
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from clusterd.dhcp.dnsmasq import pacing
from clusterd.dhcp.dnsmasq.backend import DnsmasqBackend, dnsmasq_backend
from clusterd.dhcp.file.backend import FileBackend
from clusterd.dhcp.host_lines import render_line
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp.dnsmasq.test_real import network
from tests.clusterd.dhcp.driven_contract import NET, ONE, SCENARIOS, THREE, TWO, Scenario, driven, version_of
from tests.lab.namespaces import Network, in_namespace
from tests.lab.operator import Operator
from tests.lab.raw_v4 import RawClient4
from tests.lab.servers import DnsmasqServer, dnsmasq
from tests.requirements import need
from tests.waiting import until

__all__ = ["network"]

pytestmark = pytest.mark.namespaces

T = TypeVar("T")
FOUR = HostMap(Identifier.mac("00:16:3e:aa:01:04"), "192.0.2.64", "four")
FOREIGN = "dhcp-host=00:16:3e:99:00:01,192.0.2.66"


class TroubledDnsmasq:
    """All its files are on a small disk of their own."""

    words_when_away = r"^dnsmasq is not running: "
    words_when_full = r"^cannot write /.*: No space left on device$"
    refused = (
        HostMap(Identifier.mac("00:16:3e:aa:01:0f"), "192.0.2.66"),
        rf"^duplicate dhcp-host IP address 192\.0\.2\.66: .*/dnsmasq\.conf:[0-9]+ has {re.escape(FOREIGN)}$",
    )

    def __init__(
        self, network: Network, server: DnsmasqServer, disk: Path, client: RawClient4, *, read_timeout: float = 0.5
    ) -> None:
        self.server = server
        self._network = network
        self._ballast = disk / "ballast"
        self._client = client
        self.backend = self.new_backend(read_timeout)

    def new_backend(self, read_timeout: float = 30.0) -> DnsmasqBackend:
        def in_its_network(work: Callable[[], T]) -> Awaitable[T]:
            return deferToThread(in_namespace, self._network.server, work)

        paths = (self.server.hosts_file, self.server.hosts_directory, self.server.pid_file)
        return dnsmasq_backend(*paths, reactor, in_its_network=in_its_network, read_timeout=read_timeout)

    async def written(self) -> object:
        return version_of(self.server.hosts_file), sorted(self.server.hosts_directory.iterdir())

    async def serves(self, host_map: HostMap) -> bool:
        answer = await deferToThread(self._client.discover, host_map.identifier.text)
        return answer is not None and answer.address == host_map.address

    async def lose(self, host_map: HostMap) -> None:
        lines = self.server.hosts_file.read_text().splitlines(keepends=True)
        gone = render_line([host_map]) + "\n"
        assert gone in lines
        self.server.hosts_file.write_text("".join(line for line in lines if line != gone))

    async def lose_everything(self) -> None:
        self.server.hosts_file.unlink(missing_ok=True)

    async def stop(self) -> None:
        await deferToThread(self.server.kill)

    async def start(self) -> None:
        await deferToThread(self.server.start)

    async def fill_disk(self) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    async def free_disk(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path, network: Network) -> Iterator[Path]:
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(mount_point)],
        check=False,
        capture_output=True,
        text=True,
    )
    need(mounted.returncode == 0, f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


@pytest.fixture
def troubled(network: Network, small_disk: Path) -> Iterator[TroubledDnsmasq]:
    with dnsmasq(network, small_disk, more=[FOREIGN]) as server, RawClient4(network) as client:
        yield TroubledDnsmasq(network, server, small_disk, client)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_driven_contract(scenario: Scenario, troubled: TroubledDnsmasq, tmp_path: Path) -> None:
    async with driven(troubled, tmp_path) as site:
        await scenario(troubled, site)


async def is_written(hosts_file: Path, host_map: HostMap) -> bool:
    return host_map in await FileBackend(hosts_file).read()


@pytest_twisted.ensureDeferred
async def test_an_addition_is_answered_while_a_removal_waits_for_the_pause(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dnsmasq has just read everything, and is not made deaf again for a removal before a minute is over."""
    monkeypatch.setattr(pacing, "SHORTEST_PAUSE_SECONDS", 60.0)
    with dnsmasq(network, tmp_path) as server, RawClient4(network) as client:
        troubled = TroubledDnsmasq(network, server, tmp_path, client, read_timeout=30.0)
        async with driven(troubled, tmp_path, haste=1.0) as site:
            # The comparison that a new subnet causes is over then; what is accepted meanwhile is carried out with it.
            await site.change(NET, [FOUR])
            reads = server.log.count(f"read {server.hosts_file}\n")
            await site.accept(NET, [], [TWO.identifier])
            await site.accept(NET, [THREE])
            await until(lambda: Deferred.fromCoroutine(troubled.serves(THREE)))
            await until(lambda: Deferred.fromCoroutine(troubled.serves(TWO)))
            assert site.state(NET).applied_generation == 2
            assert server.log.count(f"read {server.hosts_file}\n") == reads
            await until(lambda: Deferred.fromCoroutine(is_written(server.hosts_file, THREE)))  # after it was shown


@pytest_twisted.ensureDeferred
async def test_what_is_rejected_is_what_dnsmasq_itself_refuses(troubled: TroubledDnsmasq) -> None:
    """Had clusterd written it, dnsmasq would say the same."""
    refused, _ = troubled.refused
    hosts_file = troubled.server.hosts_file
    await troubled.backend.read()
    hosts_file.write_text(hosts_file.read_text() + render_line([refused]) + "\n")
    assert refused not in await troubled.backend.read()
    assert f"duplicate dhcp-host IP address {refused.address} at line" in troubled.server.log
    assert not await troubled.serves(refused)


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_read_is_said_and_given_everything_when_it_does(
    troubled: TroubledDnsmasq, tmp_path: Path
) -> None:
    async with driven(troubled, tmp_path) as site:
        troubled.server.freeze()
        try:
            await site.accept(NET, [THREE], [TWO.identifier])
            await until(lambda: site.state(NET).error is not None)
            assert re.search(r"did not read .* within 0\.5 s of SIGHUP: it has to be", site.state(NET).error or "")
        finally:
            troubled.server.thaw()
        await until(lambda: site.state(NET).applied_generation == 2)
        assert await troubled.serves(ONE) and await troubled.serves(THREE) and not await troubled.serves(TWO)


def check(network: Network, troubled: TroubledDnsmasq, directory: Path, hosts_file: Path) -> tuple[int, list[str]]:
    """`twistd clusterd --check` on the server's host: its exit code and what it says."""
    server = troubled.server
    files = f'hosts_file = "{hosts_file}"\nhosts_directory = "{server.hosts_directory}"\npid_file = "{server.pid_file}"'
    return Operator(network, directory, f'backend = "dnsmasq"\n{files}').check()


@pytest_twisted.ensureDeferred
async def test_a_check_of_a_dnsmasq_that_is_ready_and_of_one_that_is_not(
    network: Network, troubled: TroubledDnsmasq, tmp_path: Path
) -> None:
    await troubled.backend.replace({ONE, TWO})
    hosts_file = troubled.server.hosts_file
    before = version_of(hosts_file)
    code, lines = await deferToThread(check, network, troubled, tmp_path, hosts_file)
    assert (code, lines) == (0, ["dnsmasq: ready for up to 50000 host maps, IPv4 and IPv6."])
    assert version_of(hosts_file) == before and await troubled.serves(ONE)

    elsewhere = hosts_file.with_name("elsewhere")
    code, lines = await deferToThread(check, network, troubled, tmp_path, elsewhere)
    assert (code, lines) == (
        1,
        [f"dnsmasq: dnsmasq does not read {elsewhere}: add dhcp-hostsfile={elsewhere} and restart it."],
    )
    await troubled.fill_disk()
    code, lines = await deferToThread(check, network, troubled, tmp_path, hosts_file)
    assert (code, lines) == (1, [f"dnsmasq: Files in {hosts_file.parent} cannot be written: No space left on device."])
    await troubled.free_disk()
    await troubled.stop()
    code, lines = await deferToThread(check, network, troubled, tmp_path, hosts_file)
    assert code == 1 and [line.startswith("dnsmasq: dnsmasq is not running: ") for line in lines] == [True]
