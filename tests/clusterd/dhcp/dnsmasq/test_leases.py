"""dnsmasq's leases: read, told apart, and ended in their client's name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.dnsmasq.leases import Lease, Leases, parse_leases, stale_leases
from clusterd.dhcp.dnsmasq.release import LeaseEnding, NotOnLink, release_message_4
from clusterd.dhcp.host_system import run_at_once
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.finished import result_of
from tests.lab.dhcp_messages import Kind, Option, decode

TEXT = """1795365184 00:16:3e:aa:00:01 192.0.2.50 b1 *
1795365184 00:16:3e:aa:00:02 192.0.2.51 * ff:0a:0b
1795365184 06-00:16:3e:aa:00:02 192.0.2.52 * ff:0a:0b
duid 00:01:00:01:32:95:d3:68:3e:c8:d6:24:53:73
1795365184 11141121 2001:db8:0:1::50 b1 00:03:00:01:00:16:3e:aa:00:01
1795365184 T7 2001:db8:0:1::51 * 00:02:00:00:0d:e9:01
17953651
"""
ONE, TWO, THREE = bytes.fromhex("00163eaa0001"), bytes.fromhex("00163eaa0002"), bytes.fromhex("00163eaa0003")
LL_ONE = b"\0\3\0\1" + ONE
ENTERPRISE = bytes.fromhex("000200000de901")


def mac_map(mac: bytes, address: str) -> HostMap:
    return HostMap(Identifier(IdentifierKind.MAC, mac), address)


def duid_map(duid: bytes, address: str) -> HostMap:
    return HostMap(Identifier(IdentifierKind.DUID, duid), address)


def test_the_file() -> None:
    assert parse_leases(TEXT) == Leases(
        (
            Lease("192.0.2.50", ONE, None),
            Lease("192.0.2.51", TWO, b"\xff\x0a\x0b"),
            Lease("2001:db8:0:1::50", None, LL_ONE, 11141121),
            Lease("2001:db8:0:1::51", None, ENTERPRISE, 7),
        ),
        bytes.fromhex("000100013295d3683ec8d6245373"),
    )


@given(st.text())
def test_no_content_raises(text: str) -> None:
    parse_leases(text)


V4, V6 = "192.0.2.50", "2001:db8::50"
ALIAS = HostMap(Identifier(IdentifierKind.CLIENT_ID, b"\xffalias"), V4)


@pytest.mark.parametrize(
    ("lease", "former", "now", "static", "stale"),
    [
        (Lease(V4, ONE, None), [mac_map(ONE, V4)], [], False, True),
        (Lease(V4, ONE, None), [mac_map(ONE, V4)], [mac_map(TWO, V4)], False, True),
        (Lease(V4, ONE, None), [mac_map(ONE, V4)], [mac_map(ONE, V4)], True, False),  # only its name changed
        (Lease(V4, ONE, b"x"), [mac_map(TWO, V4)], [mac_map(ONE, V4)], True, False),  # another of several went
        (Lease(V4, THREE, None), [mac_map(ONE, V4)], [mac_map(TWO, V4)], False, False),  # a pool's client uses it
        (Lease(V4, THREE, None), [], [mac_map(TWO, V4)], False, False),
        (Lease(V4, THREE, None), [], [mac_map(TWO, V4)], True, True),  # left by a process that was killed
        (Lease(V4, THREE, None), [], [], True, False),
        (Lease(V4, ONE, b"\xffalias"), [ALIAS], [], False, True),
        (Lease(V4, ONE, b"\xffalias"), [], [ALIAS], True, False),
        (Lease(V6, None, LL_ONE), [duid_map(LL_ONE, V6)], [], False, True),
        (Lease(V6, None, LL_ONE), [mac_map(ONE, V6)], [mac_map(TWO, V6)], False, True),
        (Lease(V6, None, LL_ONE), [], [mac_map(ONE, V6)], True, False),
        (Lease(V6, None, ENTERPRISE), [mac_map(ONE, V6)], [], False, True),  # who else could it be
        (Lease(V6, None, ENTERPRISE), [], [mac_map(ONE, V6)], True, False),  # may well be the owner's
        (Lease(V6, None, ENTERPRISE), [duid_map(ENTERPRISE, V6)], [mac_map(ONE, V6)], False, True),
    ],
)
def test_which_leases_are_stale(
    lease: Lease, former: list[HostMap], now: list[HostMap], static: bool, stale: bool
) -> None:
    assert stale_leases([lease], former, lambda _: now, lambda _: static) == ([lease] if stale else [])


def test_a_release_says_who_and_what() -> None:
    message = decode(release_message_4(Lease(V4, ONE, b"\xffid"), "192.0.2.1"))
    assert (message.kind, message.mac, message.client_address) == (Kind.RELEASE, ONE, V4)
    assert (message.server_id, message.options[Option.CLIENT_ID]) == ("192.0.2.1", b"\xffid")


LEASE = Lease(V4, ONE, None)


@pytest.fixture
def lease_file(tmp_path: Path) -> Path:
    file = tmp_path / "leases"
    file.write_text(TEXT)
    return file


def test_ending_returns_when_the_lease_is_gone(lease_file: Path) -> None:
    clock, sent = Clock(), []
    ending = LeaseEnding(clock, run_at_once, run_at_once, lambda lease, duid: sent.append((lease, duid)))
    with capturedLogs() as logs:
        waiting = Deferred.fromCoroutine(ending.end([LEASE], b"duid", lease_file))
        clock.advance(0.1)
        done: list[frozenset[Lease]] = []
        waiting.addCallback(done.append)
        assert done == [] and sent == [(LEASE, b"duid")]
        lease_file.write_text(TEXT.partition("\n")[2])
        clock.advance(0.1)
    assert done == [frozenset()]
    assert [(event["event"], event["address"]) for event in logs] == [("dnsmasq.lease-ended", V4)]


@pytest.mark.parametrize("error", [None, NotOnLink("no NIC of this host is on the network"), OSError(1, "not allowed")])
def test_a_lease_that_stays_is_said_and_waited_for_a_second_only(lease_file: Path, error: Exception | None) -> None:
    def send(lease: Lease, duid: bytes | None) -> None:
        if error is not None:
            raise error

    clock = Clock()
    with capturedLogs() as logs:
        waiting = Deferred.fromCoroutine(
            LeaseEnding(clock, run_at_once, run_at_once, send).end([LEASE], None, lease_file)
        )
        for _ in range(110):
            clock.advance(0.01)
    assert waiting.called
    assert [event["event"] for event in logs] == ["dnsmasq.lease-stays"]


def test_a_lease_file_that_is_not_there_has_no_leases_and_one_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    ending = LeaseEnding(Clock(), run_at_once, run_at_once)
    assert result_of(ending.read(tmp_path / "absent")) == Leases()
    with pytest.raises(BackendError, match="cannot read dnsmasq's leases"):
        result_of(ending.read(tmp_path))
