"""`twistd clusterd --check`: whether clusterd could do its work here, and nothing else.

The DHCP server is reached, written and read back as its backend does it; host maps are left as they are. It can be
done beside a clusterd that runs. One line per obstacle, and the exit code is 1 when there is one.
"""

from typing import Any, TextIO

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.daemon.exit_codes import fail_at_exit
from clusterd.dhcp.backend import Backend

TIMEOUT_SECONDS = 60.0


class BackendCheck(Service):
    """Checks, writes what it found to `out`, and stops the reactor."""

    _log = Logger()

    def __init__(self, reactor: Any, backend: Backend, out: TextIO) -> None:
        self._reactor = reactor
        self._backend = backend
        self._out = out

    def startService(self) -> None:
        super().startService()
        # The reactor has to run before it can be stopped.
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        checking = Deferred.fromCoroutine(self._backend.check())
        checking.addTimeout(TIMEOUT_SECONDS, self._reactor, lambda _, seconds: self._no_answer(seconds))
        checking.addCallbacks(self._tell, self._failed)
        checking.addBoth(lambda _: Deferred.fromCoroutine(self._backend.close()))
        checking.addBoth(lambda _: self._reactor.stop())

    def _no_answer(self, seconds: float) -> list[str]:
        return [f"The DHCP server could not be checked within {seconds:g} s."]

    def _tell(self, obstacles: list[str]) -> None:
        for obstacle in obstacles:
            self._say(obstacle)
        if obstacles:
            fail_at_exit()
            return
        takes = self._backend.capabilities
        families = " and ".join(f"IPv{family}" for family in sorted(takes.families))
        self._say(f"ready for up to {takes.max_host_maps} host maps, {families}.")
        for family in sorted(takes.needs_restart):
            self._say(f"each change of IPv{family} host maps restarts the server.")

    def _failed(self, failure: Failure) -> None:
        self._log.failure("the DHCP server could not be checked", failure, event="dhcp-server.check-failed")
        self._say(f"clusterd itself failed: {failure.getErrorMessage()}")
        fail_at_exit()

    def _say(self, sentence: str) -> None:
        print(f"{self._backend.name}: {sentence}", file=self._out, flush=True)
