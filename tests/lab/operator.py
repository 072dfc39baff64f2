"""What an operator types on the DHCP server's host."""

import subprocess
import sys
from pathlib import Path

from tests.lab.namespaces import Network, within

_TIMEOUT_SECONDS = 60.0
_TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")


class Operator:
    """Works in `directory` on the server's host of a network, with a settings file that has this table `[dhcp]`."""

    def __init__(self, network: Network, directory: Path, dhcp: str) -> None:
        self._network = network
        self._directory = directory
        self.config = directory / "clusterd.toml"
        nics = [f"s{number}" for number in range(len(network.wires))]
        self.config.write_text(
            f'state_directory = "{directory / "state"}"\nname = "rack-7"\n[topology]\nwatch = {nics}\n[dhcp]\n{dhcp}\n'
        )

    def check(self) -> tuple[int, list[str]]:
        """`twistd clusterd --check`: its exit code and what it says."""
        done = self._run(*_TWISTD, "clusterd", "--config", str(self.config), "--check")
        assert done.stderr == "", done.stderr
        return done.returncode, done.stdout.splitlines()

    def fragment(self, *arguments: str) -> str:
        """`python3 -m clusterd dhcp-config`: what it prints."""
        command = (sys.executable, "-m", "clusterd", "dhcp-config", *arguments, "--config", str(self.config))
        done = self._run(*command)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def _run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*within(self._network.server), *command],
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
