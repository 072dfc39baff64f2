"""A real Kea, DHCPv4 and DHCPv6, at the server's end of a network, and the hosts table that it can have."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from clusterd.dhcp.kea.include_text import file_name
from clusterd.dhcp.kea.settings import KeaSettings
from clusterd.protocol.addresses import Family
from tests.lab.namespaces import LaboratoryError, Network, within
from tests.lab.servers import ProcessIdentity, wait_until

SCRIPTS = Path("/usr/share/kea/scripts/pgsql")
MORE_NETWORKS = ["10.64.0.0/10"]  # the contract's many host maps; on no cable
_STOP_SECONDS = 10.0


def missing_programs() -> list[str]:
    """Which of the programs are not installed."""
    return [program for program in ("kea-dhcp4", "kea-dhcp6") if shutil.which(program) is None]


def hooks_directory() -> Path | None:
    """Where this machine has Kea's hooks."""
    return next((path.parent for path in Path("/usr/lib").glob("*/kea/hooks/libdhcp_lease_cmds.so")), None)


class KeaServers:
    """Both of Kea's servers, started and stopped at will; their files stay in `directory`.

    `changes` are keys of `Dhcp4` and `Dhcp6` that are not as they are here. With `hosts_database`, what Kea calls
    by that name, reservations are kept there, and otherwise in files that the configuration includes. `pools` are
    ranges to lease from, by network; `relayed` are networks on no cable.
    """

    def __init__(
        self,
        network: Network,
        directory: Path,
        *,
        hosts_database: Mapping[str, Any] | None = None,
        changes: Mapping[Family, Mapping[str, Any]] | None = None,
        lease_commands: bool = True,
        families: tuple[Family, ...] = (4, 6),
        pools: Mapping[str, str] | None = None,
        relayed: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.include_directory = directory / "include"
        self.include_directory.mkdir(exist_ok=True)
        self.families = families
        self._network = network
        self._hosts_database = hosts_database
        self._lease_commands = lease_commands
        self.pools = dict(pools or {})
        self._relayed = [*MORE_NETWORKS, *relayed]
        self._processes: dict[Family, subprocess.Popen[bytes]] = {}
        for family in families:
            self.configure(family, (changes or {}).get(family, {}))

    @property
    def settings(self) -> KeaSettings:
        """What clusterd has to know of them."""
        return KeaSettings(
            backend="kea",
            dhcp4_socket=self.socket(4) if 4 in self.families else "",
            dhcp6_socket=self.socket(6) if 6 in self.families else "",
            include_directory=self.include_directory,
            dhcp4_config=self.config_file(4),
            dhcp6_config=self.config_file(6),
        )

    def socket(self, family: Family) -> Path:
        return self.directory / f"kea{family}"

    def config_file(self, family: Family) -> Path:
        return self.directory / f"kea-dhcp{family}.conf"

    def include_file(self, family: Family, cidr: str) -> Path:
        return self.include_directory / file_name(family, cidr)

    def log(self, family: Family) -> str:
        """Everything it has logged in all its lives."""
        path = self._log_file(family)
        return path.read_text(errors="replace") if path.exists() else ""

    def identity(self, family: Family) -> ProcessIdentity:
        """Which process is serving."""
        return ProcessIdentity.of(self._processes[family].pid)

    def configure(self, family: Family, changes: Mapping[str, Any]) -> None:
        """Write the configuration; it counts from the next start or reload."""
        text = json.dumps({f"Dhcp{family}": {**self._configuration(family), **changes}}, indent=1)
        if self._hosts_database is None:
            for _, cidr in self._subnets(family):
                path = self.include_file(family, cidr)
                text = text.replace(f'"include {cidr}"', f'<?include "{path}"?> // by clusterd')
                if not path.exists():
                    path.write_text("[]")
        self.config_file(family).write_text(text)

    def start(self, *families: Family) -> None:
        """Return when they serve."""
        for family in families or self.families:
            before = len(self.log(family))
            command = [*within(self._network.server), f"kea-dhcp{family}", "-c", str(self.config_file(family))]
            environment = {
                **os.environ,
                "KEA_PIDFILE_DIR": str(self.directory),
                "KEA_LOCKFILE_DIR": str(self.directory),
            }
            with self._log_file(family).open("ab") as log:
                self._processes[family] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
                )
            try:
                wait_until(partial(self._serves, family, before), f"kea-dhcp{family} serves")
            except LaboratoryError:
                self.stop()
                raise

    def _serves(self, family: Family, log_offset: int) -> bool:
        process = self._processes[family]
        if process.poll() is not None:
            raise LaboratoryError(f"Kea ended with {process.returncode}:\n{self.log(family)[log_offset:]}")
        return f"DHCP{family}_STARTED" in self.log(family)[log_offset:]

    def stop(self, *families: Family, how: signal.Signals = signal.SIGTERM) -> None:
        """End them as an init system does, or harder."""
        for family in families or self.families:
            process = self._processes.pop(family, None)
            if process is None:
                continue
            with suppress(ProcessLookupError):
                process.send_signal(how)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def signal(self, family: Family, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP."""
        self._processes[family].send_signal(number)

    def _log_file(self, family: Family) -> Path:
        return self.directory / f"kea-dhcp{family}.log"

    def _subnets(self, family: Family) -> list[tuple[str | None, str]]:
        """Each subnet with the NIC it is on, None for those on no cable."""
        found: list[tuple[str | None, str]] = [
            (f"s{number}", cidr)
            for number, wire in enumerate(self._network.wires)
            for cidr in wire.networks
            if ip_network(cidr).version == family
        ]
        return found + [(None, cidr) for cidr in self._relayed if ip_network(cidr).version == family]

    def _configuration(self, family: Family) -> dict[str, Any]:
        subnets = []
        for number, (nic, cidr) in enumerate(self._subnets(family), start=1):
            subnet: dict[str, Any] = {"id": number, "subnet": cidr}
            if nic is not None:
                subnet["interface"] = nic
            if cidr in self.pools:
                subnet["pools"] = [{"pool": self.pools[cidr]}]
            if self._hosts_database is None:
                subnet["reservations"] = f"include {cidr}"
            subnets.append(subnet)
        hooks = hooks_directory()
        configuration: dict[str, Any] = {
            "interfaces-config": {"interfaces": [nic for nic, _ in self._subnets(family) if nic is not None]},
            "control-socket": {"socket-type": "unix", "socket-name": str(self.socket(family))},
            "lease-database": {"type": "memfile", "persist": False},
            "valid-lifetime": 600,
            "host-reservation-identifiers": ["client-id", "hw-address"] if family == 4 else ["duid", "hw-address"],
            "ip-reservations-unique": False,  # several machines for one address: docks and bonds
            f"subnet{family}": subnets,
        }
        if family == 4:
            configuration |= {"authoritative": True, "match-client-id": False}
        else:
            configuration["preferred-lifetime"] = 400
            # Clients need not wait for a better offer.
            configuration["option-data"] = [{"name": "preference", "data": "255"}]
            configuration["server-id"] = {"type": "EN", "enterprise-id": 32473, "identifier": "01", "persist": False}
        if self._lease_commands and hooks is not None:
            configuration["hooks-libraries"] = [{"library": str(hooks / "libdhcp_lease_cmds.so")}]
        if self._hosts_database is not None:
            configuration["hosts-database"] = dict(self._hosts_database)
        return configuration


@contextmanager
def kea(servers: KeaServers) -> Iterator[KeaServers]:
    """Running servers; whatever became of them in between, nothing runs at the end."""
    servers.start()
    try:
        yield servers
    finally:
        servers.stop(how=signal.SIGKILL)
