"""The laboratory itself: it comes up, does not get into its own way, and leaves nothing behind."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import namespaces
from tests.lab.clients import dhclient, duid_of_mac, missing_clients, udhcpc
from tests.lab.namespaces import LaboratoryError, Network, in_namespace, network
from tests.lab.servers import DnsmasqServer, dnsmasq
from tests.lab.unprivileged import command_line
from tests.requirements import need

pytestmark = pytest.mark.namespaces

MAC = "00:16:3e:bb:00:01"


@pytest.fixture
def laboratory() -> Iterator[Network]:
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with network() as made:
        yield made


def existing() -> set[str]:
    return {path.name for path in Path("/run/netns").iterdir()}


def test_two_at_a_time_and_nothing_stays(laboratory: Network) -> None:
    with network() as second:
        names = {second.server, second.client}
        assert names <= existing()
        assert not names & {laboratory.server, laboratory.client}
    assert not names & existing()


def test_nothing_stays_after_an_error(laboratory: Network) -> None:
    names: set[str] = set()

    def fail_within() -> None:
        with network() as second:
            names.update({second.server, second.client})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert len(names) == 2
    assert not names & existing()


def test_only_the_work_is_in_the_namespace(laboratory: Network) -> None:
    def here() -> str:
        return str(Path("/proc/thread-self/ns/net").readlink())

    before = here()
    inside = in_namespace(laboratory.client, here)
    assert (here(), inside != before) == (before, True)
    with pytest.raises(FileNotFoundError):
        in_namespace("hostmap-no-such-namespace", here)


def test_real_clients_get_what_a_real_server_has_for_them(laboratory: Network, tmp_path: Path) -> None:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    laboratory.set_client_mac(MAC)
    own_duid = b'\x00\x02\x00\x00\x01\x02a\n"\\'
    (tmp_path / "maps").write_text(
        f"{MAC},192.0.2.70\nid:01:02:03,192.0.2.71\n"
        f"id:{duid_of_mac(MAC).hex(':')},[2001:db8:0:1::70]\nid:{own_duid.hex(':')},[2001:db8:0:1::71]\n"
    )
    with dnsmasq(laboratory, tmp_path):
        assert udhcpc(laboratory) == "192.0.2.70"
        assert udhcpc(laboratory, client_id=b"\x01\x02\x03") == "192.0.2.71"
        assert dhclient(laboratory, 4) == "192.0.2.70"
        assert dhclient(laboratory, 6) == "2001:db8:0:1::70"
        assert dhclient(laboratory, 6, duid=own_duid) == "2001:db8:0:1::71"
        assert udhcpc(laboratory, "c1", attempts=1) is None


def test_a_server_that_cannot_start_says_why(laboratory: Network, tmp_path: Path) -> None:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    server = DnsmasqServer(laboratory, tmp_path)
    (tmp_path / "dnsmasq.conf").write_text("no-such-option\n")
    with pytest.raises(LaboratoryError, match=r"dnsmasq ended with 1:(.|\n)*bad option"):
        server.start()


def test_in_a_user_namespace() -> None:
    """What `python -m tests.lab.unprivileged` runs can make a whole network."""
    script = "from tests.lab.namespaces import network\nwith network() as made:\n    print('made', made.server)\n"
    command = command_line([sys.executable, "-c", script])
    probe = subprocess.run(command_line(["true"]), check=False, capture_output=True, text=True)
    need(probe.returncode == 0, f"user namespaces are not available: {probe.stderr.strip()}")
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.startswith("made hostmap-"), done.stderr
