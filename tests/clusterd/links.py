"""Both ends of a link in one process: bytes move when a test pumps them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect

from clusterd.protocol.connection import Link

T = TypeVar("T")


@dataclass(slots=True)
class Wire:
    """A connection between two protocols; `server` is the end that listened."""

    server: Any
    client: Any
    pump: IOPump

    def flush(self) -> None:
        """Move bytes until none are left."""
        self.pump.flush()

    def cut(self) -> None:
        """The connection ends for both."""
        self.client.transport.abortConnection()
        self.flush()


def wire(server: Any, client: Any) -> Wire:
    """Connect two protocols."""
    return Wire(
        server,
        client,
        connect(server, FakeTransport(server, isServer=True), client, FakeTransport(client, isServer=False)),
    )


def linked(clock: Clock, server: Any = None, client: Any = None) -> Wire:
    """Two connected `Link`s with these responders."""
    return wire(Link(clock, server), Link(clock, client))


class Outcome:
    """What became of an awaitable: nothing yet, a value, or an error."""

    def __init__(self, awaitable: Any) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._done = False
        deferred = awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(awaitable)
        deferred.addCallbacks(self._settle, self._fail)

    def done(self) -> bool:
        """Whether it has come to a value or an error."""
        return self._done

    def _settle(self, value: Any) -> None:
        self._done, self.value = True, value

    def _fail(self, failure: Failure) -> None:
        self._done, self.error = True, failure.value


def settled(outcome: Outcome, step: Callable[[], None]) -> Any:
    """The value after one step of whatever moves things; raises its error."""
    step()
    assert outcome.done(), "still waiting"
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
