"""`python -m tests.demo`: tells and proves the whole way of an address. The last line of output is one JSON object."""

import json
import shutil
import signal
import sys
import time
from typing import Final

from tests.demo.processes import DemoFailed, die_on
from tests.demo.stage import Stage, new_state_directory
from tests.demo.story import Story

LONGEST_SECONDS: Final = 170
SHOWN_LOG_LINES: Final = 15


def _too_long(number: int, frame: object) -> None:
    raise DemoFailed(f"the demonstration was not finished after {LONGEST_SECONDS} s")


def main() -> int:
    """The exit code: 0 only if every step held."""
    began = time.monotonic()
    die_on(signal.SIGTERM, signal.SIGHUP)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_SECONDS)
    state = new_state_directory()
    try:
        with Stage(state) as stage:
            try:
                result = Story(stage).run()
            except KeyboardInterrupt as interrupt:
                print(f"\nInterrupted ({interrupt or 'Ctrl-C'}): stopping everything…", flush=True)
                return 130
            except DemoFailed as error:
                print(f"\nFAILED: {error}", flush=True)
                print("\n".join(["", "The daemons' last words:", *stage.last_lines(SHOWN_LOG_LINES)]), flush=True)
                return 1
            finally:
                # What follows is bounded in time and must be done: a second Ctrl-C does not cut it short.
                signal.alarm(0)
                for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(ignored, signal.SIG_IGN)
    finally:
        shutil.rmtree(state, ignore_errors=True)
    print("    Everything is stopped again, and its state is removed.\n", flush=True)
    print(json.dumps({"demo": "ok", **result, "seconds": round(time.monotonic() - began, 1)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
