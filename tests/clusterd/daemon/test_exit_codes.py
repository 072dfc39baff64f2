"""A daemon that gives up ends with 1, whatever became of its output."""

import subprocess
import sys

import pytest

GIVING_UP = "import os, sys; from clusterd.daemon.exit_codes import fail_at_exit; fail_at_exit(); {}"


@pytest.mark.parametrize(
    "last_words",
    [
        "print('the end')",
        "sys.stdout.close()",
        "sys.stderr.close()",
        "ends = os.pipe(); os.close(ends[0]); os.dup2(ends[1], 1); print('to nobody')",
    ],
)
def test_it_ends_with_1(last_words: str) -> None:
    command = [sys.executable, "-E", "-c", GIVING_UP.format(last_words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout == ("the end\n" if "the end" in last_words else "")
