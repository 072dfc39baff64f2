"""The processes of a demonstration: started, listened to, and stopped again whatever happens."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any, Final

from clusterd.daemon.log_lines import LogLine
from clusterd.daemon.text_logs import render_text

ROOT: Final = Path(__file__).parents[2]
TWISTD: Final = str(Path(sys.executable).with_name("twistd"))
JSON_LOGGER: Final = "--logger=clusterd.daemon.json_logs.json_observer"
STOP_SECONDS: Final = 20.0
COMMAND_SECONDS: Final = 30.0

_KEPT_LINES = 500
_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
_FIXED_KEYS = ("time", "level", "event", "message", "namespace", "error", "traceback")
_libc = ctypes.CDLL(None)


class DemoFailed(Exception):
    """A step did not hold; the text says which and how."""


def twistd(daemon: str, config: Path) -> list[str]:
    """The command line of a daemon in the foreground, with logs as JSON on standard output."""
    return [TWISTD, "--nodaemon", "--pidfile=", JSON_LOGGER, daemon, "--config", str(config)]


def output_of(command: Sequence[str]) -> str:
    """What a script of this environment prints. Raises DemoFailed when it fails."""
    words = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DemoFailed(f"{command[0]} did not end within {COMMAND_SECONDS:g} s") from error
    if done.returncode != 0:
        raise DemoFailed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def wait_for(
    condition: Callable[[], object],
    what: str,
    seconds: float,
    *,
    alive: Callable[[], None],
    pause: float = _POLL_SECONDS,
) -> None:
    """Return as soon as the condition holds. `alive` raises when waiting has become pointless. Raises DemoFailed."""
    deadline = time.monotonic() + seconds
    while not condition():
        alive()
        if time.monotonic() > deadline:
            raise DemoFailed(f"not within {seconds:g} s: {what}")
        time.sleep(pause)  # between two looks at a condition, bounded


class Logs:
    """Reads what a daemon logs until it ends. `show` gets each line as text for a person, when it comes."""

    def __init__(self, stream: IO[bytes], show: Callable[[str], None] | None = None) -> None:
        self._stream = stream
        self._show = show
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._events: dict[str, dict[str, Any]] = {}
        self._lock = Lock()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def event(self, name: str) -> dict[str, Any] | None:
        """The last event of this name."""
        with self._lock:
            return self._events.get(name)

    def last_lines(self, count: int) -> list[str]:
        """The last lines, as text for a person."""
        with self._lock:
            return list(self._lines)[-count:]

    def join(self, seconds: float) -> None:
        """Wait until everything is read that was written by a process that has ended."""
        self._thread.join(seconds)

    def _read(self) -> None:
        with self._stream as stream:
            for octets in stream:
                self._take(octets)

    def _take(self, octets: bytes) -> None:
        line = octets.decode(errors="replace").rstrip("\n")
        event = _parsed(line)
        if event is not None and event["level"] == "debug":
            return
        text = line if event is None else _readable(event)
        with self._lock:
            self._lines.append(text)
            if event is not None and event["event"] is not None:
                self._events[event["event"]] = event
        if self._show is not None:
            self._show(text)


class Daemon:
    """One daemon. It is in a session of its own, so that Ctrl-C reaches the demonstration and not the daemon, and it
    is told to stop when the demonstration is killed."""

    def __init__(self, name: str, command: Sequence[str], show: Callable[[str], None] | None = None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_stopped_with(os.getpid()),
        )
        assert self._process.stdout is not None
        self.logs = Logs(self._process.stdout, show)

    def must_live(self) -> None:
        """Raises DemoFailed when it has ended."""
        if self._process.poll() is not None:
            raise DemoFailed(f"{self.name} ended with {self._process.returncode}")

    def started(self, event: str, seconds: float) -> dict[str, Any]:
        """Wait until it has logged this event. Raises DemoFailed."""
        wait_for(lambda: self.logs.event(event), f"{self.name} logs {event}", seconds, alive=self.must_live)
        found = self.logs.event(event)
        assert found is not None
        return found

    def stop(self) -> None:
        """Stop it as an init system does; returns when it has ended."""
        stop(self._process)
        self.logs.join(STOP_SECONDS)


def stop(process: "subprocess.Popen[bytes]", how: Callable[[], None] | None = None) -> None:
    """Ask a process to end (by SIGTERM unless `how` says otherwise) and see to it that it has."""
    with suppress(ProcessLookupError):
        (how or process.terminate)()
    for insist in (process.terminate, process.kill):
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            insist()
    process.wait()


def die_on(*numbers: signal.Signals) -> None:
    """Make these signals end the program like Ctrl-C: everything that was started is stopped. `nohup` keeps its say."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def _stopped_with(parent: int) -> Callable[[], None]:
    def ask_the_kernel() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it ended before we could ask
            os._exit(1)

    return ask_the_kernel


def _parsed(line: str) -> dict[str, Any] | None:
    """The event in a line of JSON; None for what is something else, such as a traceback of Python."""
    with suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and event.keys() >= {"time", "level", "event", "message"}:
            return event
    return None


def _readable(event: dict[str, Any]) -> str:
    return render_text(
        LogLine(
            time=event["time"],
            level=event["level"],
            event=event["event"],
            message=event["message"],
            namespace=event.get("namespace", ""),
            fields={key: value for key, value in event.items() if key not in _FIXED_KEYS},
            error=event.get("error"),
            traceback=tuple(event.get("traceback", ())),
        )
    )
