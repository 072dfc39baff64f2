"""Fixtures for every test: see `tests.database`."""

from tests.database import database, empty_database, postgres, session_state_directory, state_directory

__all__ = ["database", "empty_database", "postgres", "session_state_directory", "state_directory"]
