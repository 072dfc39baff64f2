"""Real DHCP clients, run once at the clients' end of a network: the address they obtain, or None.

All of these block for at most their timeout and can be called from any thread.
"""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from clusterd.protocol.values import parse_hex
from tests.lab.namespaces import LaboratoryError, Network, within

_POLL_SECONDS = 0.02

_UDHCPC_SCRIPT = """#!/bin/sh
[ "$1" = bound ] && echo "$ip" > "{result}"
exit 0
"""

_DHCLIENT_SCRIPT = """#!/bin/sh
[ "$reason" = BOUND6 ] && echo "$new_ip6_address" > "{result}"
[ "$reason" = BOUND ] && echo "$new_ip_address" > "{result}"
exit 0
"""


def missing_clients() -> list[str]:
    """Which of the programs are not installed."""
    return [program for program in ("udhcpc", "dhclient") if shutil.which(program) is None]


def udhcpc(network: Network, nic: str = "c0", *, attempts: int = 3, client_id: bytes | None = None) -> str | None:
    """Run busybox's client: `attempts` questions, a second apart; the address it was given."""
    with tempfile.TemporaryDirectory(prefix="udhcpc-") as directory:
        result = Path(directory) / "address"
        script = _script(Path(directory), _UDHCPC_SCRIPT, result)
        command = [
            *within(network.client),
            *("udhcpc", "-i", nic, "-n", "-q", "-f", "-t", str(attempts), "-T", "1", "-A", "0", "-s", str(script)),
            *(() if client_id is None else ("-C", "-x", f"0x3d:{client_id.hex()}")),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=attempts + 15)
        if result.exists():
            return result.read_text().strip()
        if "no lease" in done.stderr:
            return None
        raise LaboratoryError(f"udhcpc ended with {done.returncode}: {done.stderr}")


def dhclient(
    network: Network, family: int = 6, nic: str = "c0", *, duid: bytes | None = None, timeout: float = 10.0
) -> str | None:
    """Run ISC's client until it has an address or `timeout` seconds have passed; the address it was given.

    `duid` is the client identifier for DHCPv6; without one dhclient makes one from the NIC's MAC address.
    """
    with tempfile.TemporaryDirectory(prefix="dhclient-") as name:
        directory = Path(name)
        result, leases, configuration = directory / "address", directory / "leases", directory / "dhclient.conf"
        script = _script(directory, _DHCLIENT_SCRIPT, result)
        leases.write_text("" if duid is None else f"default-duid {_octal_string(duid)};\n")
        configuration.write_text(f"timeout {int(timeout)};\n")
        command = [
            *within(network.client),
            *("dhclient", f"-{family}", "-1", "-d", "-v", "-cf", str(configuration), "-sf", str(script)),
            *("-lf", str(leases), "-pf", str(directory / "pid"), "-D", "LL", nic),
        ]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline and process.poll() is None:
                if result.exists() and (address := result.read_text().strip()):
                    return address
                time.sleep(_POLL_SECONDS)  # between two looks at a condition, bounded
            if process.returncode not in (None, 2):  # 2: nobody offered anything
                raise LaboratoryError(f"dhclient ended with {process.returncode}: {(directory / 'log').read_text()}")
            return None
        finally:
            process.terminate()
            process.wait(10)


def duid_of_mac(mac: str) -> bytes:
    """The DUID-LL (RFC 8415, 11.4) that clients make from an Ethernet address."""
    return b"\x00\x03\x00\x01" + parse_hex(mac)


def _script(directory: Path, text: str, result: Path) -> Path:
    script = directory / "script"
    script.write_text(text.format(result=result))
    script.chmod(0o755)
    return script


def _octal_string(octets: bytes) -> str:
    return '"' + "".join(f"\\{octet:03o}" for octet in octets) + '"'
