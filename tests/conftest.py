"""Fixtures for every test: see `tests.database`."""

import pytest
from hypothesis import HealthCheck, settings

from tests.database import (
    database,
    documented_answers,
    empty_database,
    logged_failures,
    module_state_directory,
    postgres,
    session_state_directory,
    state_directory,
)
from tests.requirements import DECIDES

__all__ = [
    "database",
    "documented_answers",
    "empty_database",
    "logged_failures",
    "module_state_directory",
    "postgres",
    "session_state_directory",
    "state_directory",
]

# How long an example takes says more about the machine than about the code. What decides about a change takes the same
# examples each time, so that a red run is the change's own; every other run looks further.
settings.register_profile(
    "hostmap",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=DECIDES,
)
settings.load_profile("hostmap")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first: on several cores nobody waits for one that began last."""
    items.sort(key=lambda item: "test_every_test_with_a_real_server" not in item.name)
