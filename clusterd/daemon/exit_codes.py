"""The exit code of a daemon that gives up: twistd itself ends with 0 whenever the reactor was stopped."""

import atexit
import os
import sys
from contextlib import suppress


def fail_at_exit() -> None:
    """Make this process end with 1 when everything else is done, so that a supervisor starts it again."""
    atexit.register(_fail)


def _fail() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone, or it was closed
            stream.flush()
    os._exit(1)
