"""How long the reactor is held up: the CPU time that its thread spends in one turn."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from clusterd.daemon.pauses import avoid_long_collections
from tests.slowness import slowness

REACTOR: Any = reactor
STALL_SECONDS = 0.020


def longest_stall() -> float:
    """The bound for one turn in seconds: longer where the same work takes longer, on a slow machine or a busy one."""
    return STALL_SECONDS * slowness(time.thread_time)


async def longest_turn_during(work: "Deferred[Any]") -> float:
    """The most CPU time, in seconds, that the reactor's thread spent between two turns of a timer.

    CPU time and not wall time: what other processes take of the machine is not this reactor's stall. Raises what the
    work does.
    """
    done: list[object] = []

    def ended(result: object) -> object:
        done.append(result)
        return None if isinstance(result, Failure) else result

    work.addBoth(ended)
    longest, last = 0.0, time.thread_time()
    while not done:
        await deferLater(REACTOR, 0.001)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    if isinstance(done[0], Failure):
        done[0].raiseException()
    return longest


@contextmanager
def collections_as_in_daemons() -> Iterator[None]:
    """Garbage collections are as rare as the daemons make them at their start."""
    thresholds = gc.get_threshold()
    avoid_long_collections()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
