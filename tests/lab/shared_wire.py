"""Two cluster controllers and any number of machines on one wire: a bridge in a namespace of the machines' own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lab.namespaces import Network, Wire, network, run_tool

BRIDGE = "b0"
"""Where the machines are."""


@dataclass(frozen=True, slots=True)
class SharedWire:
    """`first` and `second` have a controller each, with the NIC `s0`; machines are at BRIDGE of `first.client`."""

    first: Network
    second: Network


@contextmanager
def shared_wire(first: Wire, second: Wire) -> Iterator[SharedWire]:
    """Both have addresses of the same networks. It is gone at the end."""
    with network((first,)) as one, network((second,)) as other:
        run_tool("ip", "-n", other.client, "link", "set", "c0", "netns", one.client, "name", "c1")
        run_tool("ip", "-n", one.client, "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
        for nic in ("c0", "c1"):
            run_tool("ip", "-n", one.client, "link", "set", nic, "master", BRIDGE, "up")
        # Promiscuous, or what is for the MAC address of a machine that a test plays would not come up here.
        run_tool("ip", "-n", one.client, "link", "set", BRIDGE, "promisc", "on", "up")
        yield SharedWire(one, other)
