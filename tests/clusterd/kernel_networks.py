"""Empty network namespaces to build interfaces in, and the recorder of the netlink dumps that other tests read.

`python -m tests.clusterd.kernel_networks` records anew into `netlink_dumps/`, as root.
"""

import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterd.topology.netlink import GETADDR, GETLINK, GETROUTE, dump, open_netlink
from tests.lab.namespaces import in_namespace

DUMPS = Path(__file__).parent / "netlink_dumps"

# A host with something of every kind that kernels without further modules offer. The commands are `ip -batch`'s.
RECORDED_HOST = """
link set lo up
addr add 203.0.113.250/32 dev lo
link add eth0 index 10 address 00:16:3e:00:00:10 type veth peer name far0 index 11
link add eth1 index 12 address 00:16:3e:00:00:12 type veth peer name far1 index 13
link add br-lan index 20 address 00:16:3e:00:00:20 type bridge
link set eth1 master br-lan
link add shim index 21 link eth0 address 00:16:3e:00:00:21 type macvlan mode bridge
link add tunnel index 22 address 00:16:3e:00:00:22 type vxlan id 5 dstport 4789
tuntap add name ip-tunnel mode tun
link set eth0 up
link set far0 up
link set eth1 up
link set far1 up
link set br-lan up
link set tunnel up
addr add 192.0.2.2/24 dev eth0
addr add 192.0.2.3/24 dev eth0
addr add 198.51.100.2/25 dev eth0
addr add 203.0.113.129/25 dev br-lan
addr add 10.9.9.1 peer 10.9.9.2/32 dev shim
addr add 2001:db8:1::2/64 dev eth0 nodad
addr add 2001:db8:2::2/64 dev eth0 nodad
addr add 2001:db8:3::2/64 dev eth0 nodad
addr add 2001:db8:1::beef/128 dev eth0 nodad
route add default via 192.0.2.1
route add 10.1.0.0/16 nexthop via 198.51.100.1 nexthop via 203.0.113.130
route add 10.2.0.0/16 via 192.0.2.254 table 100
route add 10.3.0.0/16 via inet6 2001:db8:2::1 dev eth0
route add blackhole 10.4.0.0/16
route add default via 2001:db8:1::1
"""


@contextmanager
def namespace() -> Iterator[str]:
    """The name of a new namespace, which is gone at the end. Raises CalledProcessError."""
    name = f"hostmap-topology-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def ip(name: str, commands: str) -> None:
    """Run `ip -batch` in the namespace. Raises CalledProcessError."""
    subprocess.run(["ip", "-n", name, "-batch", "-"], input=commands.encode(), check=True, capture_output=True)


def refusal(name: str, command: str) -> str | None:
    """What the kernel says against a command, or None when it did it."""
    done = subprocess.run(["ip", "-n", name, *command.split()], check=False, capture_output=True, text=True)
    return done.stderr.strip() or str(done.returncode) if done.returncode else None


def netlink_in(name: str, groups: int) -> socket.socket:
    """A netlink socket that belongs to the namespace, whichever thread uses it."""
    return in_namespace(name, lambda: open_netlink(groups))


def record() -> None:
    """Write the dumps of a host like RECORDED_HOST."""
    with namespace() as name:
        ip(name, RECORDED_HOST)
        with netlink_in(name, 0) as opened:
            for file, request in (("links", GETLINK), ("addresses", GETADDR), ("routes", GETROUTE)):
                (DUMPS / f"{file}.bin").write_bytes(dump(opened, request))


if __name__ == "__main__":
    record()
