"""The cable between a cluster controller and its region, in a namespace of the region's own, and what befalls cables.

The kernel's packet filter does the losing, on what comes in, so that neither side notices at the time: a packet that is
dropped on its way out is an error to its sender.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.lab.namespaces import Network, run_tool, within

REGION_ADDRESS: Final = "10.255.0.1"
CLUSTER_ADDRESS: Final = "10.255.0.2"
_NIC: Final = "up0"


def missing_filter() -> str | None:
    """Why packets cannot be lost here, or None."""
    if shutil.which("nft") is None:
        return "nft is not installed"
    done = subprocess.run(["unshare", "--net", "nft", "-f", "-"], input=_rules(30), capture_output=True, text=True)
    return f"nft cannot lose packets here: {done.stderr.strip()}" if done.returncode else None


@dataclass(frozen=True, slots=True)
class Uplink:
    """`region` and `cluster` are the namespaces of its two ends."""

    region: str
    cluster: str

    def cut(self) -> None:
        """Take the cluster's NIC down."""
        run_tool("ip", "-n", self.cluster, "link", "set", _NIC, "down")

    def mend(self) -> None:
        run_tool("ip", "-n", self.cluster, "link", "set", _NIC, "up")

    def take_address(self) -> None:
        """Take the cluster's address from it."""
        run_tool("ip", "-n", self.cluster, "addr", "del", f"{CLUSTER_ADDRESS}/30", "dev", _NIC)

    def give_address(self) -> None:
        run_tool("ip", "-n", self.cluster, "addr", "add", f"{CLUSTER_ADDRESS}/30", "dev", _NIC)

    def lose(self, percent: int) -> None:
        """Lose so many of a hundred packets in each direction, from now on; 0 ends it."""
        for namespace in (self.region, self.cluster):
            subprocess.run(
                [*within(namespace), "nft", "-f", "-"], input=_rules(percent), check=True, text=True, timeout=30
            )

    def lost(self) -> int:
        """How many packets were lost since `lose`."""
        rules = [run_tool(*within(end), "nft", "list", "ruleset") for end in (self.region, self.cluster)]
        return sum(int(count) for text in rules for count in re.findall(r"counter packets (\d+)", text))


def _rules(percent: int) -> str:
    """Replaces whatever rules there are."""
    by_chance = f"numgen random mod 100 < {percent}" if percent < 100 else ""
    drop = f"iifname {_NIC} {by_chance} counter drop" if percent else ""
    chain = f"chain input {{\ntype filter hook input priority 0\n{drop}\n}}"
    return f"flush ruleset\ntable inet faults {{\n{chain}\n}}\n"


@contextmanager
def uplink(network: Network) -> Iterator[Uplink]:
    """A cable from the network's server to a namespace of the region's."""
    made = Uplink(f"{network.server.removesuffix('-server')}-region", network.server)
    run_tool("ip", "netns", "add", made.region)
    try:
        run_tool("ip", "-n", made.region, "link", "set", "lo", "up")
        run_tool(
            *("ip", "-n", made.cluster, "link", "add", _NIC, "type", "veth"),
            *("peer", "name", _NIC, "netns", made.region),
        )
        for namespace, address in ((made.region, REGION_ADDRESS), (made.cluster, CLUSTER_ADDRESS)):
            run_tool("ip", "-n", namespace, "addr", "add", f"{address}/30", "dev", _NIC)
            run_tool("ip", "-n", namespace, "link", "set", _NIC, "up")
        yield made
    finally:
        run_tool("ip", "netns", "del", made.region)
