"""`python -m tests.lab.server_suite`: the tests with real DHCP servers and nothing else, timed.

As root: in network namespaces, then once more as root of nothing but a user namespace, which is what an ordinary user
may be. As an ordinary user: only the latter. `--only root` or `--only unprivileged`: one of the two.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.unprivileged import command_line

ROOT = Path(__file__).parents[2]
PLACES = (
    "tests/clusterd/dhcp",
    "tests/end_to_end/test_dhcp_servers.py",
    "tests/end_to_end/test_adopting_a_site.py",
    "tests/end_to_end/test_first_contact.py",
    "tests/end_to_end/test_foreign_leases.py",
    "tests/end_to_end/test_foreign_leases_v6.py",
    "tests/end_to_end/test_overlapping_networks.py",
    "tests/end_to_end/test_relays.py",
)
LIMIT_SECONDS = 360.0  # of each of the two, on a machine with two cores


def suite(*arguments: str) -> list[str]:
    """The command that runs these tests, with more arguments for pytest."""
    return [sys.executable, "-m", "pytest", "-q", "-m", "namespaces", *arguments, *PLACES]


def main(arguments: Sequence[str]) -> int:
    """0 when all passed in time, else 1; a line for each of the two says how long it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.server_suite", description=__doc__)
    parser.add_argument("--only", choices=("root", "unprivileged"), help="one of the two; default: as this user can")
    only = parser.parse_args(arguments).only
    command = suite("-n", str(os.cpu_count()), "--dist", "worksteal")
    runs = {"root": command, "unprivileged": command_line(command)}
    chosen = [only] if only is not None else list(runs) if os.geteuid() == 0 else ["unprivileged"]
    failed = False
    for name in chosen:
        began = time.monotonic()
        done = subprocess.run(runs[name], check=False, cwd=ROOT, env={**os.environ, "REQUIRE_ALL": "1"})
        seconds = time.monotonic() - began
        failed = failed or done.returncode != 0 or seconds > LIMIT_SECONDS
        print(f"{name}: {seconds:.0f} s of at most {LIMIT_SECONDS:.0f} s, exit code {done.returncode}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
