"""Real `twistd` processes: which log form they choose and what arrives on standard output."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_SECONDS = 60

PLUGIN = """
from twisted.application.service import ServiceMaker
tiny = ServiceMaker("tiny", "tiny_daemon", "says a few things and stops", "tiny")
"""

DAEMON = """
import os, sys
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.logger import Logger
from twisted.python import log as old_log
from clusterd.daemon.config_file import Strict
from clusterd.daemon.daemon_options import DaemonOptions as Options

class Settings(Strict):
    greeting: str = "hello"

class Tiny(Service):
    def __init__(self, settings):
        self.settings = settings
    def startService(self):
        Logger(namespace="tiny").info("{greeting} from {pid}", event="tiny.started", greeting=self.settings.greeting,
                                      pid=os.getpid(), request_id="r-1")
        old_log.msg("from the old log")
        print("from print")
        try:
            1 / 0
        except ZeroDivisionError:
            Logger(namespace="tiny").failure("a bug")
        reactor.callLater(0, reactor.stop)

def makeService(options):
    return Tiny(options.settings(Settings))
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A directory with a plugin for twistd."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "tiny_plugin.py").write_text(PLUGIN)
    (tmp_path / "tiny_daemon.py").write_text(DAEMON)
    return tmp_path


def environment(tiny: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{tiny}:{Path(__file__).parents[3]}"}


def twistd(tiny: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run to the end with standard output in a pipe."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("twistd")), *arguments],
        cwd=tiny,
        env=environment(tiny),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def the_json_lines_of(output: str) -> None:
    lines = [json.loads(line) for line in output.splitlines()]
    (started,) = [line for line in lines if line["event"] == "tiny.started"]
    assert started["request_id"] == "r-1"
    assert started["greeting"] == "hello"
    assert started["namespace"] == "tiny"
    assert started["message"] == f"hello from {started['pid']}"
    assert "from the old log" in [line["message"] for line in lines]
    assert "from print" in [line["message"] for line in lines]
    (bug,) = [line for line in lines if line["message"] == "a bug"]
    assert bug["error"] == "ZeroDivisionError: division by zero"


def test_json_when_standard_output_is_no_terminal(tiny: Path) -> None:
    done = twistd(tiny, "--nodaemon", "--pidfile=", "tiny")
    assert done.returncode == 0, done.stderr
    the_json_lines_of(done.stdout)


def test_json_when_it_is_named_as_logger(tiny: Path) -> None:
    done = twistd(tiny, "-n", "--pidfile=", "--logger=clusterd.daemon.json_logs.json_observer", "tiny")
    assert done.returncode == 0, done.stderr
    the_json_lines_of(done.stdout)


def test_json_by_way_of_python_m_twisted(tiny: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twisted", "tiny"],
        cwd=tiny,
        env=environment(tiny),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # This runner starts services before it takes over standard output, so their prints go out as they are.
    assert "from print\n" in done.stdout
    the_json_lines_of(done.stdout.replace("from print\n", '{"event": null, "message": "from print"}\n'))


def test_readable_text_on_a_terminal(tiny: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=", "tiny"],
        cwd=tiny,
        env=environment(tiny),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # EIO: the last process with the terminal is gone
        pass
    finally:
        os.close(ours)
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, errors
    text = output.decode()
    assert f"info  hello from {process.pid}  event=tiny.started greeting=hello pid={process.pid} request_id=r-1" in text
    assert "info  from the old log\r\n" in text
    assert "    builtins.ZeroDivisionError: division by zero" in text


def test_a_chosen_log_file_is_left_to_twistd(tiny: Path) -> None:
    done = twistd(tiny, "--nodaemon", "--pidfile=", "--logfile=chosen.log", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "[tiny#info] hello from" in (tiny / "chosen.log").read_text()


def test_the_settings_come_from_the_file(tiny: Path) -> None:
    (tiny / "tiny.toml").write_text('greeting = "welcome"\n')
    done = twistd(tiny, "--nodaemon", "--pidfile=", "tiny", "--config", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert "welcome" in [json.loads(line).get("greeting") for line in done.stdout.splitlines()]


def test_mistakes_in_the_settings_are_told_at_start_without_a_traceback(tiny: Path) -> None:
    (tiny / "tiny.toml").write_text("greting = 1\ngreeting = 5\n")
    done = twistd(tiny, "--nodaemon", "--pidfile=", "tiny", "--config", "tiny.toml")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "tiny.toml: greeting: input should be a valid string (5)",
        'tiny.toml: greting: unknown key — did you mean "greeting"?',
    ]
