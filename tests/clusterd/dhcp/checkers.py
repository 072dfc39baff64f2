"""The real servers' own checkers of configurations."""

import shutil
import subprocess
from pathlib import Path

from tests.requirements import need

CHECK_SECONDS = 30.0


def check(server: str, path: Path, *, family: int = 4) -> None:
    """Fails with the server's own words unless it takes the configuration."""
    program, command = {
        "dnsmasq": ("dnsmasq", ["--test", f"--conf-file={path}"]),
        "isc": ("dhcpd", ["-t", f"-{family}", "-cf", str(path)]),
        "kea": (f"kea-dhcp{family}", ["-t", str(path)]),
    }[server]
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    need(found, f"{program} is not installed")
    assert found is not None
    done = subprocess.run([found, *command], capture_output=True, text=True, timeout=CHECK_SECONDS, cwd=path.parent)
    assert done.returncode == 0, f"{program} refuses {path}:\n{path.read_text()}\n{done.stdout}{done.stderr}"
