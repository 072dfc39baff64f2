"""Two network namespaces joined by one cable per subnet: the server's side and the clients' side.

Needs root, or `python -m tests.lab.unprivileged COMMAND…`. Everything a network is made of lives in its two
namespaces and goes away with them; their names are drawn by lot, so that any number can exist at a time.
"""

import ctypes
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_LINK_LOCAL_SECONDS = 10.0
_libc = ctypes.CDLL(None, use_errno=True)


class LaboratoryError(Exception):
    """The laboratory could not be set up, or something in it did not happen in time."""


@dataclass(frozen=True, slots=True)
class Wire:
    """One cable. The server's end has the given addresses, `address/prefix length`; the clients' end has none."""

    server_addresses: tuple[str, ...] = ("192.0.2.1/24", "2001:db8:0:1::1/64")

    @property
    def networks(self) -> list[str]:
        """The subnets on this cable in CIDR form."""
        return [str(ip_interface(address).network) for address in self.server_addresses]


DEFAULT_WIRES = (Wire(), Wire(("198.51.100.1/24",)))


@dataclass(frozen=True, slots=True)
class Network:
    """The names of a network's parts. Cable n is NIC `s<n>` at the server and `c<n>` at the clients."""

    server: str
    client: str
    wires: tuple[Wire, ...]

    def set_client_mac(self, mac: str, nic: str = "c0") -> None:
        """Make the clients' end of a cable have this MAC address, and a link-local address made from it."""
        run_tool("ip", "-n", self.client, "link", "set", nic, "down")
        run_tool("ip", "-n", self.client, "link", "set", nic, "address", mac)
        run_tool("ip", "-n", self.client, "link", "set", nic, "up")
        wait_for_link_local(self.client, nic)


def obstacle() -> str | None:
    """Why no network can be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root (or python -m tests.lab.unprivileged)"
    for tool in ("ip", "nsenter", "sysctl"):
        if shutil.which(tool) is None:
            return f"the program {tool} is not installed"
    name = _new_name()
    try:
        run_tool("ip", "netns", "add", name)
    except LaboratoryError as error:
        return f"network namespaces cannot be made: {error}"
    run_tool("ip", "netns", "del", name)
    return None


@contextmanager
def network(wires: Sequence[Wire] = DEFAULT_WIRES) -> Iterator[Network]:
    """A network that is ready: links up, addresses usable. It is gone at the end, and its processes lose their NICs.

    Raises LaboratoryError.
    """
    name = _new_name()
    made = Network(f"{name}-server", f"{name}-client", tuple(wires))
    existing: list[str] = []
    try:
        for namespace in (made.server, made.client):
            run_tool("ip", "netns", "add", namespace)
            existing.append(namespace)
            run_tool("ip", "-n", namespace, "link", "set", "lo", "up")
        for number, wire in enumerate(wires):
            _lay(made, number, wire)
        for number in range(len(wires)):
            wait_for_link_local(made.server, f"s{number}")
            wait_for_link_local(made.client, f"c{number}")
        yield made
    finally:
        for namespace in existing:
            run_tool("ip", "netns", "del", namespace)


def _new_name() -> str:
    return f"hostmap-{os.getpid()}-{secrets.token_hex(3)}"


def _lay(made: Network, number: int, wire: Wire) -> None:
    server_nic, client_nic = f"s{number}", f"c{number}"
    run_tool(
        *("ip", "-n", made.server, "link", "add", server_nic, "type", "veth"),
        *("peer", "name", client_nic, "netns", made.client),
    )
    for namespace, nic in ((made.server, server_nic), (made.client, client_nic)):
        # Without duplicate address detection an IPv6 address is usable at once.
        settings = [f"net.ipv6.conf.{nic}.accept_dad=0", f"net.ipv6.conf.{nic}.accept_ra=0"]
        run_tool(*within(namespace), "sysctl", "-qw", *settings)
        run_tool("ip", "-n", namespace, "link", "set", nic, "up")
    for address in wire.server_addresses:
        run_tool("ip", "-n", made.server, "addr", "add", address, "dev", server_nic)


def wait_for_link_local(namespace: str, nic: str) -> None:
    """Return when the NIC has a usable link-local address, without which there is no DHCPv6."""
    deadline = time.monotonic() + _LINK_LOCAL_SECONDS
    while "fe80" not in run_tool(
        "ip", "-n", namespace, "-6", "addr", "show", "dev", nic, "scope", "link", "-tentative"
    ):
        if time.monotonic() > deadline:
            raise LaboratoryError(f"{nic} in {namespace} has no link-local address after {_LINK_LOCAL_SECONDS} s")
        time.sleep(0.02)  # between two looks at a condition, bounded


def within(namespace: str) -> list[str]:
    """What to put before a command so that it runs in the namespace, as the same process."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def in_namespace(namespace: str, work: Callable[[], T]) -> T:
    """Do something short, such as opening a socket, in a namespace. The calling thread stays where it is."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter_and_work() -> None:
        try:
            descriptor = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)
            finally:
                os.close(descriptor)
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = Thread(target=enter_and_work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def run_tool(*command: str) -> str:
    """What a short command prints. Raises LaboratoryError when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise LaboratoryError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
