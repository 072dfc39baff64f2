"""`python -m tests.demo` and `python -m tests.demo.run` as they are started, with everything they start."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.demo.processes import ROOT
from tests.demo.site import missing_for_dnsmasq
from tests.lab import namespaces
from tests.requirements import need

DEADLINE_SECONDS = 120.0
KEYS = ["demo", "reservations", "host_maps", "dhcp", "served", "seconds"]


class Running:
    """A program of the demonstration, whose output is read as it comes."""

    def __init__(self, module: str, *arguments: str, path: Path | None) -> None:
        environment = {"PATH": str(path)} if path is not None else None
        # As in a terminal: a shell starts what it puts into the background, these tests perhaps, deaf to SIGINT.
        as_in_a_terminal = ["/usr/bin/env", "--default-signal=INT"]
        self.process = subprocess.Popen(
            [*as_in_a_terminal, sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.output += line

    def wait_for_output(self, pattern: str) -> "re.Match[str]":
        """The first place in the output that fits."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := re.search(pattern, self.output, re.MULTILINE)) is None:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)  # between two looks at the output, bounded
        return found

    def end(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        return code

    @property
    def result(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return content


@contextmanager
def running(module: str = "tests.demo", *arguments: str, path: Path | None = None) -> Iterator[Running]:
    started = Running(module, *arguments, path=path)
    try:
        yield started
    finally:
        started.process.terminate()
        started.end()


def state_of(demo: Running) -> str:
    return demo.wait_for_output(r"its\s+state\s+is\s+in\s+(/\S+/hostmap-demo-\w+)\.$")[1]


def processes_with(text: str) -> dict[int, str]:
    """The living processes whose command lines have this text in them: process id → command line."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in words:
            found[int(entry.parent.name)] = words
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two looks at a condition, bounded


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH of a host without DHCP software and without the means to make network namespaces."""
    directory = tmp_path / "bin"
    directory.mkdir()
    shell = shutil.which("sh")
    assert shell is not None
    (directory / "sh").symlink_to(shell)
    return directory


@pytest.mark.namespaces
def test_with_a_real_server_and_client() -> None:
    need((obstacle := namespaces.obstacle()) is None, str(obstacle))
    need(not missing_for_dnsmasq(), f"not installed: {', '.join(missing_for_dnsmasq())}")
    with running() as demo:
        assert demo.end() == 0, demo.output
        assert list(demo.result) == KEYS
        assert demo.result["dhcp"] == "dnsmasq", demo.output
        assert demo.result["served"] == "192.0.2.2"


def test_where_nobody_may_make_a_network(bare_path: Path) -> None:
    with running(path=bare_path) as demo:
        state = state_of(demo)
        assert demo.end() == 0, demo.output
        assert list(demo.result) == KEYS
        assert {key: value for key, value in demo.result.items() if key != "seconds"} == {
            "demo": "ok",
            "reservations": 4,
            "host_maps": 3,
            "dhcp": "responder",
            "served": "192.0.2.2",
        }
        assert not Path(state).exists()
        assert processes_with(state) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_stays_when_it_is_interrupted(bare_path: Path, number: signal.Signals) -> None:
    with running(path=bare_path) as demo:
        state = state_of(demo)
        demo.wait_for_output("^ 4  ")
        assert len(processes_with(state)) >= 3  # regiond, PostgreSQL, clusterd
        demo.process.send_signal(number)
        assert demo.end() == 130
        assert '"demo"' not in demo.output
        assert not Path(state).exists()
        assert processes_with(state) == {}


def test_a_failure_is_told_with_the_daemons_last_words(bare_path: Path) -> None:
    with running(path=bare_path) as demo:
        state = state_of(demo)
        demo.wait_for_output("^ 2  ")
        (regiond,) = [pid for pid, words in processes_with(state).items() if " regiond --config " in words]
        os.kill(regiond, signal.SIGKILL)
        assert demo.end() == 1
        assert re.search(r"^FAILED: ", demo.output, re.MULTILINE), demo.output
        assert re.search(r"^regiond  \| .* regiond .* is ready", demo.output, re.MULTILINE), demo.output
        assert '"demo"' not in demo.output
        until(lambda: processes_with(state) == {})  # PostgreSQL dies with regiond, in its own time
        assert not Path(state).exists()


def test_nothing_stays_when_it_is_killed(bare_path: Path) -> None:
    with running(path=bare_path) as demo:
        state = state_of(demo)
        demo.wait_for_output("^ 4  ")
        demo.process.kill()
        assert demo.end() == -signal.SIGKILL
        until(lambda: processes_with(state) == {})
        shutil.rmtree(state)


def test_run_goes_on_until_it_is_told_to_stop_and_goes_on_later(bare_path: Path, state_directory: Path) -> None:
    """The three curl lines that it prints do what they say; the second time everything is still there."""
    need(shutil.which("curl"), "curl is not installed")

    def answers_of(daemons: Running) -> list[Any]:
        daemons.wait_for_output("^Ctrl-C stops both")
        lines = re.findall("^  (curl .*)$", daemons.output, re.MULTILINE)
        return [json.loads(subprocess.check_output(line, shell=True, text=True, timeout=60)) for line in lines]

    with running("tests.demo.run", "--state", str(state_directory), path=bare_path) as daemons:
        interfaces, device, reservations = answers_of(daemons)
        assert len(interfaces) == 3
        assert device["reservations"][0]["host_map"]["state"] == "applied"
        assert [one["id"] for one in reservations] == [device["reservations"][0]["id"]]
        assert re.search(r"^clusterd \| .*event=host-map\.applied", daemons.output, re.MULTILINE), daemons.output
        daemons.process.send_signal(signal.SIGINT)
        assert daemons.end() == 0, daemons.output
    with running("tests.demo.run", "--state", str(state_directory), path=bare_path) as daemons:
        assert answers_of(daemons)[2] == reservations
        daemons.process.send_signal(signal.SIGINT)
        assert daemons.end() == 0, daemons.output
    assert processes_with(str(state_directory)) == {}


def test_run_ends_when_a_daemon_does(bare_path: Path, state_directory: Path) -> None:
    with running("tests.demo.run", "--state", str(state_directory), path=bare_path) as daemons:
        daemons.wait_for_output("^Ctrl-C stops both")
        running_daemons = processes_with(str(state_directory))
        (clusterd,) = [pid for pid, words in running_daemons.items() if "told_clusterd" in words]
        os.kill(clusterd, signal.SIGKILL)
        assert daemons.end() == 1
        assert "FAILED: clusterd ended" in daemons.output
    assert processes_with(str(state_directory)) == {}
