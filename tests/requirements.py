"""What a test needs of the machine it runs on."""

import os
from random import SystemRandom
from typing import Final

import pytest

DECIDES: Final = os.environ.get("REQUIRE_ALL") == "1"
"""Whether this run decides about a change: nothing is skipped, and what is drawn by lot is the same each time."""


def any_seed() -> int:
    """One that nobody chose, where that is no business of whoever waits for a decision."""
    return 3 if DECIDES else SystemRandom().randrange(1_000_000)


def need(condition: object, reason: str) -> None:
    """Skip the test with the reason unless the condition holds; with REQUIRE_ALL=1 fail it instead."""
    if condition:
        return
    if DECIDES:
        pytest.fail(f"REQUIRE_ALL=1, and {reason}", pytrace=False)
    pytest.skip(reason)  # shown with its reason, and never in CI: there REQUIRE_ALL=1 has failed above
