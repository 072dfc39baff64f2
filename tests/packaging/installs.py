"""A clean copy of the sources, a wheel built from it, environments to install it into. Needs git and pip's index."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 300.0
START_SECONDS = 60.0


def clean_copy(destination: Path) -> None:
    """What git tracks, as it is now in the working tree; nothing that only happens to lie there."""
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    for name in subprocess.check_output(command, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)


def pip(*arguments: str) -> None:
    """Run pip: the one of this environment, or, where that was made without, the one that made it."""
    python = sys.executable if find_spec("pip") else str(Path(sys.base_prefix) / "bin" / "python3")
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def build_wheel(sources: Path, destination: Path) -> Path:
    """The wheel of these sources."""
    pip("wheel", "--no-deps", "--wheel-dir", str(destination), str(sources))
    (wheel,) = destination.glob("hostmap-*.whl")
    return wheel


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> "Environment":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
        return cls(path)

    def pip(self, *arguments: str) -> None:
        """Run pip on this environment."""
        pip("--python", str(self.path / "bin" / "python"), *arguments)

    def command(self, *words: str) -> list[str]:
        """The command line of a script of this environment."""
        return [str(self.path / "bin" / words[0]), *words[1:]]

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a script of this environment, away from the checkout."""
        return subprocess.run(
            self.command(*words),
            check=False,
            cwd=self.path,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )

    def modules(self, *names: str) -> dict[str, str | None]:
        """Where Python finds these modules; None where it does not."""
        code = (
            "import importlib.util as u, json, sys\n"
            "print(json.dumps({name: getattr(u.find_spec(name), 'origin', None) for name in sys.argv[1:]}))"
        )
        found: dict[str, str | None] = json.loads(self.run("python", "-c", code, *names).stdout)
        return found

    def start_and_stop(self, daemon: str, config: Path) -> list[dict[str, Any]]:
        """Start a daemon by twistd, stop it as soon as it says that it has started; all that it logged."""
        arguments = ["twistd", "--nodaemon", "--pidfile=", daemon, "--config", str(config)]
        log = config.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(*arguments), cwd=config.parent, env=_environment(), stdout=output, stderr=output
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while f'"{daemon}.started"' not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)  # between two looks at a condition, bounded
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)
        finally:
            process.kill()
            process.wait()
        assert process.returncode in (0, -signal.SIGTERM), log.read_text()  # twistd ends as it was told to
        return [json.loads(line) for line in log.read_text().splitlines()]


def _environment() -> dict[str, str]:
    """Nothing of the checkout: no PYTHONPATH, no active environment."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
