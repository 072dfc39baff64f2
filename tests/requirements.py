"""What a test needs of the machine it runs on."""

import os

import pytest


def need(condition: object, reason: str) -> None:
    """Skip the test with the reason unless the condition holds; with REQUIRE_ALL=1 fail it instead."""
    if condition:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"REQUIRE_ALL=1, and {reason}", pytrace=False)
    pytest.skip(reason)  # shown with its reason, and never in CI: there REQUIRE_ALL=1 has failed above
