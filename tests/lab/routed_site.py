"""A controller, a router that relays DHCP, and machines behind it: three namespaces, and dnsmasq as the relay."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespaces import LaboratoryError, Network, Wire, network, run_tool, within
from tests.lab.servers import wait_until

_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RoutedSite:
    """`near` has the controller with `s0`; `far` the router, and the machines at `c0`."""

    near: Network
    far: Network


@contextmanager
def routed_site(near: Wire, router: tuple[str, ...], far: Wire, directory: Path) -> Iterator[RoutedSite]:
    """`router` are its addresses at the controller's network, `far`'s those at the machines': one of each family.

    The controller has routes there. Raises LaboratoryError when the relay does not start.
    """
    with network((near,)) as one, network((far,)) as other:
        run_tool("ip", "-n", one.client, "link", "set", "c0", "netns", other.server, "name", "up0")
        run_tool(*within(other.server), "sysctl", "-qw", "net.ipv6.conf.up0.accept_dad=0")
        run_tool("ip", "-n", other.server, "link", "set", "up0", "up")
        relays = []
        for local, uplink, server in zip(far.server_addresses, router, near.server_addresses, strict=True):
            run_tool("ip", "-n", other.server, "addr", "add", uplink, "dev", "up0")
            here, via, to = (text.partition("/")[0] for text in (local, uplink, server))
            cidr = far.networks[far.server_addresses.index(local)]
            run_tool("ip", "-n", one.server, "route", "add", cidr, "via", via)
            relays.append(f"--dhcp-relay={here},{to}")
        with _relay(other.server, relays, directory / "relay.log"):
            yield RoutedSite(one, other)


@contextmanager
def _relay(namespace: str, relays: list[str], log: Path) -> Iterator[None]:
    own = ("--conf-file=/dev/null", "--pid-file=", "--log-facility=-", "--user=root", "--group=", "--port=0")  # no DNS
    command = [*within(namespace), "dnsmasq", "--keep-in-foreground", *own, *relays]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def is_relaying() -> bool:
        said = log.read_text(errors="replace")
        if process.poll() is not None:
            raise LaboratoryError(f"the relay ended with {process.returncode}:\n{said}")
        return said.count("relay from") >= len(relays)

    try:
        wait_until(is_relaying, "dnsmasq relays")
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(_STOP_SECONDS)
