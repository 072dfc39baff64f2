"""The recorder of the netlink dumps of a host with a bond and VLANs, which not every kernel has: User Mode Linux does.

`python -m tests.clusterd.other_kernel LINUX.UML MODULES` records anew into `netlink_dumps/`, as anybody. Both are in
Debian's package user-mode-linux, which need not be installed: `dpkg -x` will do, and MODULES is the directory with
`modules.dep` in it. The kernel gets two NICs that lead nowhere, sees this host's files read-only, and ends by itself.
"""

import ctypes
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from clusterd.topology.netlink import GETADDR, GETLINK, dump, open_netlink

DUMPS = Path(__file__).parent / "netlink_dumps"
ROOT = Path(__file__).parents[2]
WANTED = ("8021q", "bonding", "bridge")
PARAMETERS = {"bonding": b"max_bonds=0"}  # by itself it makes a bond0
MACS = ("00:16:3e:00:00:01", "00:16:3e:00:00:02")
BOOT_SECONDS = 120.0
_FINIT_MODULE = 313  # syscall(2) on x86-64

# The commands are `ip -batch`'s. `vec0` and `vec1` are UML's own NICs: no kind of device, as a card's.
HOST = """
link set lo up
link set vec0 name eno1
link set vec1 name eno2
link add bond0 address 00:16:3e:00:00:02 type bond mode active-backup miimon 100
link set eno1 master bond0
link set eno2 master bond0
link add link bond0 name bond0.7 type vlan id 7
link add link bond0 name bond0.4094 type vlan id 4094
link add link bond0.7 name inner type vlan proto 802.1ad id 30
link add link bond0 name prio type vlan id 0
link add br-office type bridge
link set bond0.4094 master br-office
link set eno1 up
link set eno2 up
link set bond0 up
link set bond0.7 up
link set bond0.4094 up
link set inner up
link set br-office up
link set prio down
addr add 192.0.2.2/24 dev bond0
addr add 198.51.100.2/25 dev bond0.7
addr add 2001:db8:7::2/64 dev bond0.7 nodad
addr add 203.0.113.2/24 dev br-office
addr add 10.9.0.2/24 dev prio
addr add 10.30.0.2/24 dev inner
"""


def record(kernel: Path, modules: Path) -> None:
    """Boot it and have it write the dumps. Raises CalledProcessError and TimeoutExpired."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in MACS]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        within = [sys.executable, "-B", "-m", "tests.clusterd.other_kernel", "inside", str(modules), str(out)]
        (out / "init").write_text(
            f"#!/bin/sh\nexport PATH={os.environ['PATH']}\nmount -t proc proc /proc\n"
            f"mount -t hostfs none {out} -o {out}\ncd {ROOT}\n{shlex.join(within)} > {out}/log 2>&1\n"
            "sync\necho o > /proc/sysrq-trigger\nread forever\n"
        )
        (out / "init").chmod(0o755)
        nics = [
            f"vec{number}:transport=fd,fd={here.fileno()},mac={mac}"
            for number, ((here, _), mac) in enumerate(zip(pairs, MACS, strict=True))
        ]
        host = ("rootfstype=hostfs", "rootflags=/", "root=/dev/root", "ro", "mem=256M", "con=null")
        subprocess.run(
            [str(kernel), *host, *nics, f"init={out}/init"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            pass_fds=[here.fileno() for here, _ in pairs],
            timeout=BOOT_SECONDS,
            check=True,
        )
        print((out / "log").read_text(), file=sys.stderr)
        for file in ("bonded-links.bin", "bonded-addresses.bin"):
            (DUMPS / file).write_bytes((out / file).read_bytes())


def inside(modules: Path, out: Path) -> None:
    """Become that host and record it."""
    requires = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        requires[Path(module).stem] = [module, *others.split()]
    loaded = set()
    for wanted in WANTED:
        for module in reversed(requires[wanted]):
            if module not in loaded:
                _load(modules / module)
                loaded.add(module)
    subprocess.run(["ip", "-batch", "-"], input=HOST.encode(), check=True)
    with open_netlink(0) as opened:
        (out / "bonded-links.bin").write_bytes(dump(opened, GETLINK))
        (out / "bonded-addresses.bin").write_bytes(dump(opened, GETADDR))


def _load(module: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with module.open("rb") as opened:
        if libc.syscall(_FINIT_MODULE, opened.fileno(), PARAMETERS.get(module.stem, b""), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(module))


if __name__ == "__main__":
    if sys.argv[1] == "inside":
        inside(*map(Path, sys.argv[2:4]))
    else:
        record(*map(Path, sys.argv[1:3]))
