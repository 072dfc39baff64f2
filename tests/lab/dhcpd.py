"""Real ISC dhcpd in a laboratory network: a process for IPv4 with OMAPI, and one for IPv6 that a script restarts."""

import os
import shutil
import signal
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from clusterd.dhcp.isc.backend import IscBackend, isc_backend
from clusterd.dhcp.isc.settings import Ipv6Settings, IscSettings
from tests.lab.endpoints import EndpointInNamespace
from tests.lab.namespaces import LaboratoryError, Network, within
from tests.lab.servers import ProcessIdentity, wait_until

OMAPI_PORT = 7911
SECRET = b64encode(b"a secret of the laboratory, 32 by").decode()

_RESTART = """#!/bin/sh
if pid=$(cat {pid_file} 2>/dev/null) && kill -9 "$pid" 2>/dev/null; then
    n=0
    while kill -0 "$pid" 2>/dev/null && [ $n -lt 500 ]; do n=$((n + 1)); sleep 0.01; done
fi
exec {enter} {program} -6 -cf {configuration} -lf {leases} -pf {pid_file} </dev/null
"""


def configuration(
    networks: list[str], *, lease_seconds: int = 600, pools: dict[str, str] | None = None, more: Sequence[str] = ()
) -> str:
    """Serves host maps on the IPv4 networks (CIDR); `pools` are ranges to lease from besides, by network.

    `more` are further lines.
    """
    lines = [
        f"omapi-port {OMAPI_PORT};",
        f'key hostmap {{ algorithm hmac-sha256; secret "{SECRET}"; }};',
        "omapi-key hostmap;",
        "authoritative;",
        "ping-check false;",
        "ddns-update-style none;",
        f"default-lease-time {lease_seconds};",
        f"max-lease-time {lease_seconds};",
    ]
    for net in map(ip_network, networks):
        if net.version == 4:
            pool = (pools or {}).get(str(net))
            inner = f"range {pool};" if pool else ""
            lines.append(f"subnet {net.network_address} netmask {net.netmask} {{ {inner} }}")
    return "\n".join([*lines, *more]) + "\n"


def configuration6(networks: list[str], include_file: Path) -> str:
    """Serves the included host maps on the IPv6 networks (CIDR). Clients need not wait for a better offer."""
    subnets = [f"subnet6 {net} {{ }}" for net in map(ip_network, networks) if net.version == 6]
    general = ["default-lease-time 600;", "option dhcp6.preference 255;"]
    return "\n".join([*general, *subnets, f'include "{include_file}";']) + "\n"


class DhcpdServer:
    """dhcpd for both families at the server's end of a network; its files stay in `directory`.

    `relayed` are networks on no cable, whose machines a relay asks for.
    The program is a copy: Debian's AppArmor profile, where it is in force, keeps /usr/sbin/dhcpd to /etc and /var/lib.
    """

    def __init__(
        self,
        network: Network,
        directory: Path,
        *,
        pools: dict[str, str] | None = None,
        more: Sequence[str] = (),
        relayed: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.leases_file = directory / "dhcpd.leases"
        self.leases_file6 = directory / "dhcpd6.leases"
        self.configuration_file = directory / "dhcpd.conf"
        self.configuration_file6 = directory / "dhcpd6.conf"
        self.include_file = directory / "maps6.conf"
        self.pid_file6 = directory / "dhcpd6.pid"
        self.key_file = directory / "omapi-key"
        self.restart_command = directory / "restart6"
        self._network = network
        self._program = directory / "dhcpd"
        self._log_file = directory / "dhcpd.log"
        self._process: subprocess.Popen[bytes] | None = None
        installed = shutil.which("dhcpd")
        if installed is None:
            raise LaboratoryError("dhcpd is not installed")
        shutil.copy(installed, self._program)
        networks = [*(cidr for wire in network.wires for cidr in wire.networks), *relayed]
        self.configuration_file.write_text(configuration(networks, pools=pools, more=more))
        self.configuration_file6.write_text(configuration6(networks, self.include_file))
        self.include_file.touch()
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(f"{SECRET}\n")
        self.leases_file.touch()
        self.leases_file6.touch()
        self.restart_command.write_text(
            _RESTART.format(
                pid_file=self.pid_file6,
                enter=" ".join(within(network.server)),
                program=self._program,
                configuration=self.configuration_file6,
                leases=self.leases_file6,
            )
        )
        self.restart_command.chmod(0o755)

    @property
    def settings(self) -> IscSettings:
        """clusterd's settings for this server."""
        return IscSettings(
            backend="isc",
            omapi_port=OMAPI_PORT,
            omapi_key_file=self.key_file,
            leases_file=self.leases_file,
            ipv6=Ipv6Settings(
                include_file=self.include_file,
                configuration_file=self.configuration_file6,
                pid_file=self.pid_file6,
                leases_file=self.leases_file6,
                program=self._program,
                restart_command=(str(self.restart_command),),
            ),
        )

    def backend(self, reactor: Any) -> IscBackend:
        """A backend that reaches into the network; nobody minds how often it restarts the IPv6 server."""
        endpoint = EndpointInNamespace(reactor, self._network.server, OMAPI_PORT)
        return isc_backend(self.settings, reactor, endpoint, pause_between_restarts=0.0)

    @property
    def identity(self) -> ProcessIdentity:
        """Which process serves IPv4."""
        assert self._process is not None
        return ProcessIdentity.of(self._process.pid)

    @property
    def identity6(self) -> ProcessIdentity:
        """Which process serves IPv6."""
        return ProcessIdentity.of(int(self.pid_file6.read_text()))

    @property
    def log(self) -> str:
        """Everything the IPv4 server has logged in all its lives."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def start(self) -> None:
        """Return when the IPv4 server serves."""
        before = len(self.log)
        command = [
            *within(self._network.server),
            *(str(self._program), "-4", "-f", "-d", "-cf", str(self.configuration_file)),
            *("-lf", str(self.leases_file), "-pf", str(self.directory / "dhcpd.pid")),
        ]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self._serves(before), "dhcpd serves")

    def _serves(self, log_offset: int) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LaboratoryError(f"dhcpd ended with {self._process.returncode}:\n{self.log[log_offset:]}")
        return "Server starting service" in self.log[log_offset:]

    def start6(self) -> None:
        """(Re)start the IPv6 server as its operator does."""
        done = subprocess.run([str(self.restart_command)], check=False, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise LaboratoryError(f"dhcpd -6 did not start: {done.stderr}")
        wait_until(self.pid_file6.exists, "dhcpd serves IPv6")

    def stop(self) -> None:
        """End the IPv4 server as an init system does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the IPv4 server without a chance to tidy up."""
        self._end(signal.SIGKILL)

    def kill6(self) -> None:
        """End the IPv6 server, if it runs."""
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int(self.pid_file6.read_text())
            if Path(f"/proc/{pid}/exe").readlink() == self._program:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not _is_running(pid), "dhcpd -6 ends")

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Make the IPv4 server stop answering, without ending it."""
        os.kill(self.identity.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.identity.pid, signal.SIGCONT)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def dhcpd(
    network: Network,
    directory: Path,
    *,
    pools: dict[str, str] | None = None,
    more: Sequence[str] = (),
    relayed: Sequence[str] = (),
) -> Iterator[DhcpdServer]:
    """A running dhcpd for each family; whatever became of them in between, nothing runs at the end."""
    server = DhcpdServer(network, directory, pools=pools, more=more, relayed=relayed)
    try:
        server.start()
        server.start6()
        yield server
    finally:
        server.kill()
        server.kill6()
