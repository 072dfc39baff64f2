"""How long the reactor is held up: the CPU time that its thread spends in one turn; and how slow the machine is."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from clusterd.daemon.pauses import avoid_long_collections

REACTOR: Any = reactor
STALL_SECONDS = 0.020
PIECE_SECONDS = 0.0045  # what `_piece_of_work` takes where a stall of STALL_SECONDS is the bound


def longest_stall() -> float:
    """The bound for one turn in seconds: longer where the same work takes longer, on a slow machine or a busy one."""
    return STALL_SECONDS * _slowness(time.thread_time)


def slowness() -> float:
    """How many times as long as elsewhere work takes here and now, by the clock on the wall; 1.0 at least.

    For bounds that are promised to operators: on a machine that is slower, or busy with other tests, they are longer.
    """
    return _slowness(time.monotonic)


def _slowness(clock: Callable[[], float]) -> float:
    pieces = sorted(_piece_of_work(clock) for _ in range(9))
    return max(1.0, pieces[len(pieces) // 2] / PIECE_SECONDS)


def _piece_of_work(clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(20):
        rows = [{"nic": f"eth{number}", "cidr": f"10.0.{number}.0/24"} for number in range(500)]
        rows.sort(key=itemgetter("cidr"))
    return clock() - began


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
