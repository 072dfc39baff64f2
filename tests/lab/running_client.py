"""A real DHCP client that stays: it uses its address, and renews its lease when it is told to."""

import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.namespaces import Network, within
from tests.lab.servers import wait_until

_STOP_SECONDS = 10.0

# What busybox's client tells its script; what it is about to do (`deconfig`) is no news.
_SCRIPT = """#!/bin/sh
[ "$1" = deconfig ] && exit 0
[ "$1" = bound ] && ip addr add "$ip/$mask" dev "$interface"
echo "$1 $ip" >> {events}
exit 0
"""


class RunningClient:
    """busybox's udhcpc on a NIC."""

    def __init__(self, process: "subprocess.Popen[bytes]", events: Path, log: Path) -> None:
        self._process = process
        self._events_file = events
        self._log_file = log

    @property
    def address(self) -> str | None:
        """What it was given, None before."""
        return next((event.split()[1] for event in self._events if event.startswith("bound ")), None)

    def renew(self) -> str:
        """Ask, from its address, for a longer lease on it: `renew ADDRESS` when it has got that."""
        known = len(self._events)
        self._process.send_signal(signal.SIGUSR1)
        self._wait_until(lambda: len(self._events) > known, "an answer to its renewal")
        return self._events[known]

    def wait_for_address(self) -> None:
        """Return when it has one. Raises LaboratoryError when it is given none."""
        self._wait_until(lambda: self.address is not None, "an address")

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, f"udhcpc has {what}: {self._log_file.read_text(errors='replace')}")

    @property
    def _events(self) -> list[str]:
        return self._events_file.read_text().splitlines() if self._events_file.exists() else []


@contextmanager
def running_client(network: Network, nic: str = "c0", *, client_id: bytes | None = None) -> Iterator[RunningClient]:
    """One that has an address, on its NIC as well. Without `client_id` it sends the usual one, of the MAC address."""
    with tempfile.TemporaryDirectory(prefix="udhcpc-") as name:
        directory = Path(name)
        events, log, script = directory / "events", directory / "log", directory / "script"
        script.write_text(_SCRIPT.format(events=shlex.quote(str(events))))
        script.chmod(0o755)
        command = [
            *within(network.client),
            *("udhcpc", "-i", nic, "-f", "-t", "5", "-T", "1", "-A", "1", "-s", str(script)),
            *(() if client_id is None else ("-C", "-x", f"0x3d:{client_id.hex()}")),
        ]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        client = RunningClient(process, events, log)
        try:
            client.wait_for_address()
            yield client
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)
            if client.address is not None:
                address = [*within(network.client), "ip", "addr", "del", f"{client.address}/24", "dev", nic]
                subprocess.run(address, check=False)
