"""twistd regiond as a process: how it ends when it cannot start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TWISTD = Path(sys.executable).parent / "twistd"
LONGEST_SECONDS = 60.0


def _run(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(TWISTD), "--nodaemon", "--pidfile=", "regiond", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)


@pytest.mark.parametrize(
    ("more", "reason"),
    [("", "Not a directory"), ('[database]\nrun_as = "nobody-of-that-name"\n', "nobody-of-that-name|only root")],
    ids=["no place for its state", "no such user"],
)
def test_a_start_that_fails_before_the_reactor_runs_ends_the_process(tmp_path: Path, more: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    state = tmp_path / ("state" if more else "file/state")
    config = tmp_path / "regiond.toml"
    config.write_text(f'state_directory = "{state}"\n{more}')
    ended = _run(config)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (told,) = [line for line in map(json.loads, ended.stdout.splitlines()) if line["event"] == "regiond.start-failed"]
    assert told["level"] == "critical"
    assert any(part in told["reason"] for part in reason.split("|")), told
    assert "traceback" not in ended.stdout.lower()
