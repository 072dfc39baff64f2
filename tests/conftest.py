"""Fixtures for every test: see `tests.database`."""

from hypothesis import HealthCheck, settings

from tests.database import (
    database,
    empty_database,
    logged_failures,
    postgres,
    session_state_directory,
    state_directory,
)

__all__ = ["database", "empty_database", "logged_failures", "postgres", "session_state_directory", "state_directory"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("hostmap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hostmap")
