"""clusterd, told of two NICs: for hosts where nobody may make a network. `python -m tests.demo.told_clusterd CONFIG`.

The same daemon in every other respect. What the kernel would say of a host with the laboratory's cables goes
through clusterd's own reading of it.
"""

import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.logger import globalLogBeginner

from clusterd.config import ClusterSettings
from clusterd.daemon.config_file import load
from clusterd.daemon.json_logs import json_observer
from clusterd.service import ClusterDaemon
from clusterd.topology.interfaces import TopologySettings, interface_reports
from clusterd.topology.netlink import InterfaceAddress, KernelFacts, Link
from clusterd.topology.reporter import Interfaces
from tests.lab.namespaces import DEFAULT_WIRES


def facts() -> KernelFacts:
    """What netlink says in the server's namespace of `tests.lab.namespaces.network`."""
    links = tuple(Link(index, f"s{index}", mac=bytes([2, 0, 0, 0, 0, index])) for index in range(len(DEFAULT_WIRES)))
    addresses = tuple(
        InterfaceAddress(index, *_split(address))
        for index, wire in enumerate(DEFAULT_WIRES)
        for address in wire.server_addresses
    )
    return KernelFacts(links, addresses)


def _split(address: str) -> tuple[str, int]:
    host, _, length = address.partition("/")
    return host, int(length)


def main() -> None:
    """Run until told to end."""
    globalLogBeginner.beginLoggingTo([json_observer()], redirectStandardIO=False)
    settings = load(Path(sys.argv[1]), ClusterSettings)
    interfaces = interface_reports(facts(), TopologySettings(watched_nics=settings.topology.watch))

    def look() -> "Deferred[Interfaces]":
        return succeed(interfaces)

    daemon = ClusterDaemon(reactor, settings, look=look)
    reactor.callWhenRunning(daemon.startService)
    reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
