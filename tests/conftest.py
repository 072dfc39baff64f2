"""Fixtures for every test: see `tests.database`."""

from tests.database import (
    database,
    empty_database,
    logged_failures,
    postgres,
    session_state_directory,
    state_directory,
)

__all__ = ["database", "empty_database", "logged_failures", "postgres", "session_state_directory", "state_directory"]
