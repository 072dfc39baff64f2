"""Waiting for something to come true, on the real reactor."""

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater

reactor: Any = global_reactor


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait for a condition; fails the test when it does not come."""
    end = reactor.seconds() + seconds
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert reactor.seconds() < end, "the condition did not come true"
        await deferLater(reactor, 0.01)
