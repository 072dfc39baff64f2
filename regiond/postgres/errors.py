"""Why there is no embedded PostgreSQL."""


class PostgresUnavailable(Exception):
    """The embedded PostgreSQL cannot be had. The message says what to do, with the server's own last words."""
