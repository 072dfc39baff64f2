"""The same as root of a user namespace only: what an ordinary user, and a CI runner without privileges, can run.

Every test with a real DHCP server, from the code that root runs, too, with root in nothing but its own namespace.
"""

import os
import subprocess

import pytest

from tests.lab.server_suite import ROOT, suite
from tests.lab.unprivileged import command_line
from tests.requirements import need

TIMEOUT_SECONDS = 600.0


@pytest.mark.parametrize("which", ["dnsmasq", "isc", "not dnsmasq and not isc"], ids=["dnsmasq", "isc", "the rest"])
def test_every_test_with_a_real_server(which: str) -> None:
    probe = subprocess.run(command_line(["true"]), check=False, capture_output=True, text=True)
    need(probe.returncode == 0, f"user namespaces are not available: {probe.stderr.strip()}")
    done = subprocess.run(
        command_line(suite("-k", which)),
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "REQUIRE_ALL": "1"},
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    # Not one of them may be missing from it: skipped ones fail for REQUIRE_ALL, and these are the names.
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
