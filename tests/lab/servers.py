"""Real DHCP servers in a laboratory network."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from tests.lab.namespaces import LaboratoryError, Network, within

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


def wait_until(condition: Callable[[], object], what: str, seconds: float = _START_SECONDS) -> None:
    """Return as soon as the condition holds. Raises LaboratoryError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LaboratoryError(f"not within {seconds} s: {what}")
        time.sleep(0.01)  # between two looks at a condition, bounded


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process and no later one with the same number: `started` counts clock ticks since boot (proc(5))."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return cls(pid, int(fields[19]))


def dnsmasq_configuration(
    networks: list[str],
    *,
    hosts_file: Path,
    hosts_directory: Path,
    pid_file: Path,
    lease_file: Path,
    lease_seconds: int = 600,
    more: Sequence[str] = (),
) -> str:
    """A configuration that serves host maps and nothing else on these networks (CIDR)."""
    ranges = [
        f"dhcp-range={net.network_address},static,{net.netmask if net.version == 4 else net.prefixlen},{lease_seconds}"
        for net in map(ip_network, [*networks, "10.64.0.0/10"])  # the latter for any number of host maps
    ]
    lines = [
        "port=0",  # no DNS
        "dhcp-authoritative",
        "dhcp-lease-max=150000",  # the default of 1000 would be the limit of host maps too
        "no-ping",
        f"pid-file={pid_file}",
        f"dhcp-leasefile={lease_file}",
        f"dhcp-hostsfile={hosts_file}",
        f"dhcp-hostsdir={hosts_directory}",
        *ranges,
        *more,
    ]
    return "\n".join(lines) + "\n"


class DnsmasqServer:
    """One dnsmasq at the server's end of a network, started and stopped at will; its files stay in `directory`.

    `relayed` are networks on no cable, whose machines a relay asks for.
    """

    def __init__(
        self,
        network: Network,
        directory: Path,
        *,
        hosts_file: Path | None = None,
        lease_seconds: int = 600,
        more: Sequence[str] = (),
        relayed: Sequence[str] = (),
    ) -> None:
        self.hosts_file = hosts_file or directory / "maps"
        self.hosts_directory = self.hosts_file.with_name(f"{self.hosts_file.name}.new")
        self.lease_file = directory / "leases"
        self.pid_file = directory / "dnsmasq.pid"
        self._network = network
        self._log_file = directory / "dnsmasq.log"
        self._configuration_file = directory / "dnsmasq.conf"
        self._process: subprocess.Popen[bytes] | None = None
        networks = [*(cidr for wire in network.wires for cidr in wire.networks), *relayed]
        self._configuration_file.write_text(
            dnsmasq_configuration(
                networks,
                hosts_file=self.hosts_file,
                hosts_directory=self.hosts_directory,
                pid_file=self.pid_file,
                lease_file=self.lease_file,
                lease_seconds=lease_seconds,
                more=more,
            )
        )

    @property
    def identity(self) -> ProcessIdentity:
        """Which process is serving."""
        assert self._process is not None
        return ProcessIdentity.of(self._process.pid)

    @property
    def log(self) -> str:
        """Everything it has logged in all its lives."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def start(self) -> None:
        """Return when it serves, with what the hosts file says; an absent one is made, empty."""
        self.hosts_file.touch()
        self.hosts_directory.mkdir(exist_ok=True)
        before = len(self.log)
        command = [
            *within(self._network.server),
            *("dnsmasq", "--keep-in-foreground", "--log-facility=-", f"--conf-file={self._configuration_file}"),
            *("--user=root", "--group="),  # directories of tests are private to their owner
        ]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(lambda: self._has_read_hosts(before), f"dnsmasq serves\n{self.log[before:]}")
        except LaboratoryError:
            self.stop()
            raise

    def _has_read_hosts(self, log_offset: int) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LaboratoryError(f"dnsmasq ended with {self._process.returncode}:\n{self.log[log_offset:]}")
        return f"read {self.hosts_file}\n" in self.log[log_offset:]

    def stop(self) -> None:
        """End it as an init system does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a chance to tidy up: its pid file stays."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(how)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Make it stop answering and reading, without ending it."""
        os.kill(self.identity.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.identity.pid, signal.SIGCONT)


@contextmanager
def dnsmasq(
    network: Network,
    directory: Path,
    *,
    hosts_file: Path | None = None,
    more: Sequence[str] = (),
    relayed: Sequence[str] = (),
) -> Iterator[DnsmasqServer]:
    """A running dnsmasq; whatever became of it in between, nothing runs at the end. `more` are configuration lines."""
    server = DnsmasqServer(network, directory, hosts_file=hosts_file, more=more, relayed=relayed)
    server.start()
    try:
        yield server
    finally:
        server.kill()
