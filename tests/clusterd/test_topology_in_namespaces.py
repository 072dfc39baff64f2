"""The whole way from real interfaces in a namespace to the reports, on the real reactor."""

import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from clusterd.protocol.values import InterfaceReport, NicKind
from clusterd.topology.interfaces import TopologySettings, interface_reports
from clusterd.topology.netlink import Monitor, snapshot
from clusterd.topology.reporter import SETTLE_SECONDS, TopologyReporter, look_in_thread
from tests.clusterd.kernel_networks import RECORDED_HOST, ip, namespace, netlink_in, refusal
from tests.lab.namespaces import obstacle
from tests.requirements import need
from tests.slowness import slowness
from tests.turns import collections_as_in_daemons, longest_stall, longest_turn_during

pytestmark = pytest.mark.namespaces

REACTOR: Any = reactor
SETTINGS = TopologySettings(watched_nics=("nic*",))
RIGHT_WITHIN_SECONDS = 2.0
MANY_NICS = 400

# Kinds that clusterd has a word for, and how `ip` makes them of the NICs nic0 and nic1.
KINDS = {
    NicKind.VLAN: ("link add link nic0 name nic0.7 type vlan id 7", "nic0.7"),
    NicKind.BOND: ("link add name nicbond type bond mode active-backup", "nicbond"),
    NicKind.BRIDGE: ("link add name nicbridge type bridge", "nicbridge"),
    NicKind.OTHER: ("link add link nic0 name nicshim type macvlan mode bridge", "nicshim"),
}


@contextmanager
def an_empty_host() -> Iterator[str]:
    hindrance = obstacle()
    need(hindrance is None, str(hindrance))
    with namespace() as name:
        yield name


@pytest.fixture
def host() -> Iterator[str]:
    """A namespace with two NICs, whose cables end in it too."""
    with an_empty_host() as name:
        ip(name, "".join(f"link add nic{n} type veth peer name far{n}\n" for n in range(2)))
        ip(name, "".join(f"link set {end}{n} up\n" for n in range(2) for end in ("nic", "far")))
        yield name


class Region:
    """Takes reports; `becomes` waits for a picture."""

    def __init__(self) -> None:
        self.reported: list[tuple[InterfaceReport, ...]] = []

    async def report(self, interfaces: tuple[InterfaceReport, ...]) -> None:
        self.reported.append(interfaces)

    async def becomes(
        self, expected: Callable[[dict[tuple[str, str], InterfaceReport]], object], since: float | None = None
    ) -> float:
        """How many seconds after `since` (now) the picture is the expected one; fails after RIGHT_WITHIN_SECONDS, or
        later on a slower machine.
        """
        begun = time.monotonic() if since is None else since
        within = RIGHT_WITHIN_SECONDS
        while not (self.reported and expected({(one.nic, one.cidr): one for one in self.reported[-1]})):
            if time.monotonic() - begun >= within:
                within = max(within, RIGHT_WITHIN_SECONDS * slowness())
                assert time.monotonic() - begun < within, self.reported[-1:]
            await deferLater(REACTOR, 0.005)
        return time.monotonic() - begun


class Watched:
    """A region that hears of a host."""

    def __init__(self, host: str) -> None:
        opener = partial(netlink_in, host)
        self.host = host
        self.region = Region()
        self.look = look_in_thread(REACTOR, SETTINGS, opener)
        self.reporter = TopologyReporter(
            REACTOR, partial(Monitor, REACTOR, open_socket=opener), self.look, self.region.report
        )


@pytest_twisted.async_yield_fixture
async def watched(host: str) -> AsyncIterator[Watched]:
    """The host, its reporter, and the region after the first report."""
    made = Watched(host)
    made.reporter.start()
    made.reporter.refresh()
    await made.region.becomes(lambda picture: picture == {})
    yield made
    made.reporter.stop()


def test_every_kind_of_interface_that_this_kernel_offers(host: str) -> None:
    refused = {kind: refusal(host, command) for kind, (command, _) in KINDS.items()}
    offered = [kind for kind, reason in refused.items() if reason is None]
    print("this kernel refuses:", {str(kind): reason for kind, reason in refused.items() if reason is not None})
    assert NicKind.BRIDGE in offered
    for number, kind in enumerate(offered):
        nic = KINDS[kind][1]
        ip(host, f"link set {nic} up\naddr add 10.{number}.0.1/24 dev {nic}\n")
    facts = snapshot(partial(netlink_in, host))
    found = {report.nic: report for report in interface_reports(facts, SETTINGS)}
    assert {found[KINDS[kind][1]].kind: found[KINDS[kind][1]].cidr for kind in offered} == {
        kind: f"10.{number}.0.0/24" for number, kind in enumerate(offered)
    }
    if NicKind.VLAN in offered:
        assert found["nic0.7"].vlan == 7


@pytest_twisted.ensureDeferred
async def test_addresses_links_and_routes_come_and_go(watched: Watched) -> None:
    host, region = watched.host, watched.region
    v4, v6 = ("nic0", "192.0.2.0/24"), ("nic0", "2001:db8::/64")
    ip(host, "addr add 192.0.2.2/24 dev nic0\n")
    await region.becomes(lambda picture: set(picture) == {v4})
    ip(host, "addr add 192.0.2.3/24 dev nic0\n")
    await region.becomes(lambda picture: v4 in picture and picture[v4].addresses == ("192.0.2.2", "192.0.2.3"))
    ip(host, "route add default via 192.0.2.1\n")
    await region.becomes(lambda picture: picture[v4].gateways == ("192.0.2.1",))
    ip(host, "addr add 2001:db8::2/64 dev nic0 nodad\n")
    await region.becomes(lambda picture: set(picture) == {v4, v6})
    ip(host, "link set far0 down\n")
    await region.becomes(lambda picture: not picture[v4].up)
    ip(host, "link set far0 up\n")
    await region.becomes(lambda picture: picture[v4].up)
    ip(host, "addr del 192.0.2.2/24 dev nic0\naddr del 2001:db8::2/64 dev nic0\n")
    await region.becomes(lambda picture: v6 not in picture)
    ip(host, "link del nic0\n")
    await region.becomes(lambda picture: picture == {})


@pytest_twisted.ensureDeferred
async def test_an_ipv6_address_counts_when_it_has_proved_unique(watched: Watched) -> None:
    ip(watched.host, "addr add 192.0.2.2/24 dev nic0\naddr add 2001:db8::2/64 dev nic0\n")
    await watched.region.becomes(lambda picture: set(picture) == {("nic0", "192.0.2.0/24")})
    proved = await wait_until(lambda: "tentative" not in shown(watched.host, "nic0"))
    await watched.region.becomes(lambda picture: len(picture) == 2, since=proved)


def shown(host: str, nic: str) -> str:
    command = ["ip", "-n", host, "-6", "addr", "show", "dev", nic, "scope", "global"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def batch_process(host: str) -> "subprocess.Popen[bytes]":
    """An `ip` that does what it reads, line by line."""
    return subprocess.Popen(["ip", "-n", host, "-batch", "-"], stdin=subprocess.PIPE)


async def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> float:
    """The time at which the condition came to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await deferLater(REACTOR, 0.02)
    return time.monotonic()


@pytest_twisted.ensureDeferred
async def test_a_port_that_joins_and_leaves_a_bridge_keeps_its_report(watched: Watched) -> None:
    key = ("nic0", "192.0.2.0/24")
    ip(watched.host, "addr add 192.0.2.2/24 dev nic0\nlink add nicbridge type bridge\nlink set nicbridge up\n")
    ip(watched.host, "link set nic0 master nicbridge\naddr add 198.51.100.2/24 dev nicbridge\n")
    await watched.region.becomes(lambda picture: len(picture) == 2)
    ip(watched.host, "link set nic0 nomaster\naddr del 198.51.100.2/24 dev nicbridge\n")
    await watched.region.becomes(lambda picture: set(picture) == {key})
    assert all(key in {(one.nic, one.cidr) for one in picture} for picture in watched.region.reported if picture)


@pytest_twisted.ensureDeferred
async def test_a_storm_of_200_changes_in_a_second(watched: Watched) -> None:
    process = batch_process(watched.host)
    before, begun = len(watched.region.reported), time.monotonic()
    with collections_as_in_daemons():
        turn = await longest_turn_during(Deferred.fromCoroutine(storm(process)))
    assert await wait_until(lambda: process.poll() is not None) and process.returncode == 0
    ended = time.monotonic()
    left = {("nic0", f"10.0.{number}.0/24") for number in range(100) if number % 4 in (0, 1)}
    await watched.region.becomes(lambda picture: set(picture) == left, since=ended)
    # One for each pause in between at most, however long the machine takes over it; not one for each change.
    assert len(watched.region.reported) - before <= 1 + (time.monotonic() - begun) / SETTLE_SECONDS
    print(f"longest turn of the reactor during the storm: {turn * 1000:.1f} ms of CPU")
    assert turn < longest_stall()


async def storm(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    for number in range(100):
        verb = "del" if number % 4 == 3 else "add"
        host_part = number - 1 if verb == "del" else number
        process.stdin.write(f"addr {verb} 10.0.{host_part}.1/24 dev nic0\n".encode())
        process.stdin.write(f"link set nic1 {'down' if number % 2 else 'up'}\n".encode())
        process.stdin.flush()
        await deferLater(REACTOR, 0.01)
    process.stdin.close()


def many_nics(host: str) -> None:
    """MANY_NICS NICs, half of them with addresses of two networks."""
    commands = (
        f"link add nicv{n} type veth peer name nicw{n}\nlink set nicv{n} up\nlink set nicw{n} up\n"
        f"addr add 10.{n // 200}.{n % 200}.1/24 dev nicv{n}\naddr add 2001:db8:{n:x}::1/64 dev nicv{n} nodad\n"
        for n in range(MANY_NICS // 2)
    )
    ip(host, "".join(commands))


@pytest_twisted.ensureDeferred
async def test_400_nics_do_not_stall_the_reactor(watched: Watched) -> None:
    many_nics(watched.host)
    await watched.region.becomes(lambda picture: len(picture) == MANY_NICS)
    with collections_as_in_daemons():
        turns = [await longest_turn_during(Deferred.fromCoroutine(first(watched))) for _ in range(15)]
    print("longest turns of the reactor during 15 looks, ms of CPU:", [round(turn * 1000, 1) for turn in turns])
    assert max(turns) < longest_stall()


async def first(watched: Watched) -> None:
    assert len(await watched.look()) == MANY_NICS


def test_a_host_with_everything_is_read_as_it_was_recorded() -> None:
    with an_empty_host() as host:
        ip(host, RECORDED_HOST)
        reports = interface_reports(snapshot(partial(netlink_in, host)), TopologySettings(watched_nics=("eth*",)))
    assert [(report.nic, report.cidr) for report in reports] == [
        ("br-lan", "203.0.113.128/25"),
        ("eth0", "192.0.2.0/24"),
        ("eth0", "198.51.100.0/25"),
        ("eth0", "2001:db8:1::/64"),
        ("eth0", "2001:db8:2::/64"),
        ("eth0", "2001:db8:3::/64"),
    ]
