"""Other programs, run from the reactor: what they printed and how they ended."""

import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from clusterd.dhcp.backend import BackendError

MAX_OUTPUT_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended: its exit status (negative: the signal that ended it) and what it printed."""

    status: int
    output: str


class Command(Protocol):
    """Runs a program to its end. Raises BackendError when it cannot be started or takes too long."""

    async def __call__(self, arguments: Sequence[str], timeout: float, /) -> Done: ...


def commands_of(reactor: Any) -> Command:
    """Programs as child processes of this one, found along PATH, without a shell and without input."""

    async def run(arguments: Sequence[str], timeout: float, /) -> Done:
        program = shutil.which(arguments[0])
        if program is None:
            raise BackendError(f"there is no program {arguments[0]} that clusterd's user may run")
        protocol = _Collecting()
        try:
            transport = reactor.spawnProcess(protocol, program, list(arguments), env=dict(os.environ))
        except OSError as error:
            raise BackendError(f"{program} cannot be started: {error.strerror}") from error
        transport.closeStdin()
        protocol.ended.addTimeout(timeout, reactor)
        try:
            return await protocol.ended
        except DeferredTimeout as error:
            with suppress(ProcessExitedAlready):
                transport.signalProcess("KILL")
            raise BackendError(f"{arguments[0]} did not end within {timeout:g} s") from error

    return run


class _Collecting(ProcessProtocol):
    def __init__(self) -> None:
        self.ended: Deferred[Done] = Deferred()
        self._output = b""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._output = (self._output + data)[:MAX_OUTPUT_BYTES]

    def processEnded(self, reason: Failure) -> None:
        if self.ended.called:
            return
        status = reason.value.exitCode  # type: ignore[union-attr]
        if status is None:
            status = -(reason.value.signal or signal.SIGKILL)  # type: ignore[union-attr]
        self.ended.callback(Done(status, self._output.decode("utf-8", "replace")))
