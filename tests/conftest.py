"""Fixtures for every test: see `tests.database`."""

from hypothesis import HealthCheck, settings

from tests.database import (
    database,
    documented_answers,
    empty_database,
    logged_failures,
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
