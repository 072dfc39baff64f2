"""twistd with a measured reactor: the longest turn in thread CPU time is written to $REACTOR_STALL_FILE at the end.

A turn is one pass of the main loop: due calls, then the readable and writable descriptors. CPU time and not wall
time, because the machine is shared: what other processes take is not this reactor's stall.
"""

import json
import os
import sys
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.scripts.twistd import run

WARM_UP_SECONDS = 2.0


def measure() -> None:
    """Wrap the main loop's two steps."""
    longest = 0.0
    began_at = time.monotonic()
    turn = 0.0
    due, poll = reactor.runUntilCurrent, reactor.doIteration  # type: ignore[attr-defined]

    def timed_due() -> None:
        nonlocal turn
        started = time.thread_time()
        due()
        turn = time.thread_time() - started

    def timed_poll(timeout: float | None) -> None:
        nonlocal longest
        started = time.thread_time()
        poll(timeout)
        spent = turn + time.thread_time() - started
        if spent > longest and time.monotonic() - began_at > WARM_UP_SECONDS:
            longest = spent

    def report() -> None:
        Path(os.environ["REACTOR_STALL_FILE"]).write_text(json.dumps({"max_reactor_stall_ms": longest * 1000}))

    reactor.runUntilCurrent, reactor.doIteration = timed_due, timed_poll  # type: ignore[attr-defined]
    reactor.addSystemEventTrigger("before", "shutdown", report)  # what follows keeps nobody waiting


if __name__ == "__main__":
    measure()
    sys.argv[0] = "twistd"
    run()
