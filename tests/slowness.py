"""How slow this machine is now, for bounds that are right on others as well."""

import time
from collections.abc import Callable
from operator import itemgetter

PIECE_SECONDS = 0.0045  # what `_piece_of_work` takes on the machines of the bounds


def slowness(clock: Callable[[], float] = time.monotonic) -> float:
    """How many times as long as there work takes here and now, 1.0 at least.

    By the clock on the wall a machine that is busy with something else is slow, by a thread's CPU time it is not.
    """
    pieces = sorted(_piece_of_work(clock) for _ in range(9))
    return max(1.0, pieces[len(pieces) // 2] / PIECE_SECONDS)


def _piece_of_work(clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(20):
        rows = [{"nic": f"eth{number}", "cidr": f"10.0.{number}.0/24"} for number in range(500)]
        rows.sort(key=itemgetter("cidr"))
    return clock() - began
