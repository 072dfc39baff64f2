"""The same as root of a user namespace only: what an ordinary user, and a CI runner without privileges, can run."""

import os
import subprocess
import sys
from pathlib import Path

from tests.lab.unprivileged import command_line
from tests.requirements import need


def test_squatters_are_found_in_a_user_namespace() -> None:
    probe = subprocess.run(command_line(["true"]), check=False, capture_output=True, text=True)
    need(probe.returncode == 0, f"user namespaces are not available: {probe.stderr.strip()}")
    tests = str(Path(__file__).with_name("test_squatters.py"))
    done = subprocess.run(
        command_line([sys.executable, "-m", "pytest", "-q", tests, "-k", "only_the_squatter"]),
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "REQUIRE_ALL": "1"},
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr
