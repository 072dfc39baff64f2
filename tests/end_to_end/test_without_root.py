"""The same as root of a user namespace only: what an ordinary user, and a CI runner without privileges, can run."""

import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.dhcp_sites import SERVERS
from tests.lab.unprivileged import command_line
from tests.requirements import need


def test_claim_and_release_at_every_dhcp_server() -> None:
    probe = subprocess.run(command_line(["true"]), check=False, capture_output=True, text=True)
    need(probe.returncode == 0, f"user namespaces are not available: {probe.stderr.strip()}")
    tests = str(Path(__file__).with_name("test_dhcp_servers.py"))
    command = command_line([sys.executable, "-m", "pytest", "-q", tests, "-k", "test_claim_and_release"])
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "REQUIRE_ALL": "1"},
    )
    assert f"{len(SERVERS)} passed" in done.stdout, done.stdout + done.stderr
