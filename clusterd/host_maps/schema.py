"""The file behind the host map store: its tables and their migrations, how it is opened, what can go wrong.

The file is opened with an exclusive lock that lasts as long as the connection, so that two daemons can never both
think that a set is theirs; a `sqlite3` shell cannot look into it meanwhile either.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Kept for good: a file of any version is brought to the latest by what follows its own `user_version`.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE stamp (only_row INTEGER PRIMARY KEY CHECK (only_row = 1),"
        " region TEXT NOT NULL, cluster TEXT NOT NULL, history TEXT NOT NULL)",
        "CREATE TABLE subnet (key INTEGER PRIMARY KEY, subnet TEXT NOT NULL UNIQUE, cidr TEXT NOT NULL,"
        " region TEXT NOT NULL, cluster TEXT NOT NULL, history TEXT NOT NULL,"
        " accepted_generation INTEGER NOT NULL, applied_generation INTEGER NOT NULL,"
        " digest TEXT NOT NULL, host_maps INTEGER NOT NULL, forgetting INTEGER NOT NULL)",
        # kind: the codes of Note [Digest]; address: canonical text
        "CREATE TABLE host_map (subnet_key INTEGER NOT NULL REFERENCES subnet, kind INTEGER NOT NULL,"
        " identifier BLOB NOT NULL, address TEXT NOT NULL, hostname TEXT,"
        " PRIMARY KEY (subnet_key, kind, identifier)) WITHOUT ROWID",
    ),
    (
        # Who had which address by a host map that was held once: a lease may be left of it. See Note [Former leases].
        "CREATE TABLE former_lease (kind INTEGER NOT NULL, identifier BLOB NOT NULL, address TEXT NOT NULL,"
        " PRIMARY KEY (kind, identifier, address)) WITHOUT ROWID",
    ),
)

# A removal has no address.
STAGING = (
    "CREATE TEMP TABLE staged (transfer INTEGER NOT NULL, kind INTEGER NOT NULL, identifier BLOB NOT NULL,"
    " address TEXT, hostname TEXT, PRIMARY KEY (transfer, kind, identifier)) WITHOUT ROWID"
)

_PRAGMAS = (
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA journal_size_limit = 16777216",
    "PRAGMA temp_store = FILE",
    "PRAGMA foreign_keys = OFF",  # rows of a subnet are deleted with it in one place
)


class StoreUnusable(Exception):
    """The store cannot be opened. The message is for the operator and says what to do."""


class StoreFailed(Exception):
    """The disk, or the database on it, refused an operation; nothing of it is in effect."""


def prepare(path: Path) -> sqlite3.Connection:
    """An open, checked and migrated database in which only this process can read or write.

    Raises StoreUnusable.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise StoreUnusable(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise StoreUnusable(_why_unusable(error, path)) from error
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        # Takes the lock, which is then kept.
        with transaction(connection):
            _migrate(connection, path)
        _check(connection, path)
        connection.execute(STAGING)
    except StoreUnusable:
        connection.close()
        raise
    except (sqlite3.Error, StoreFailed) as error:
        connection.close()
        raise StoreUnusable(_why_unusable(error, path)) from error
    _sync_directory(path.parent)
    return connection


@contextmanager
def translated() -> Iterator[None]:
    """Database errors become StoreFailed."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreFailed(f"the host map store: {error}") from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or, on any exception, nothing. Database errors become StoreFailed."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # A full disk has SQLite roll back by itself.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise StoreFailed(f"the host map store: {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreUnusable(
            f"{path} was written by a newer clusterd (schema {version}, this one knows {len(MIGRATIONS)}): "
            f"install that one again, or {_advice(path)}"
        )
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    if version < len(MIGRATIONS):  # a start with nothing to do writes nothing, so that a full disk does not prevent it
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreUnusable(f"{path} is damaged ({found}): {_advice(path)}")


def _why_unusable(error: Exception, path: Path) -> str:
    cause = error.__cause__ if isinstance(error, StoreFailed) and error.__cause__ is not None else error
    if "locked" in str(cause):
        return f"{path} is in use by another process: is a second clusterd running with the same state directory?"
    if isinstance(cause, sqlite3.OperationalError):  # a full or read-only disk, no permission
        return f"{path}: cannot be opened: {cause}"
    return f"{path} is damaged ({cause}): {_advice(path)}"


def _advice(path: Path) -> str:
    return (
        f"move it aside (mv {path} {path}.damaged; rm -f {path}-wal) and start again. The region sends everything "
        "anew, and the DHCP server keeps what it has meanwhile"
    )


def _sync_directory(directory: Path) -> None:
    """Make the new file's name durable, too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without directory sync has nothing to lose here
            raise StoreUnusable(f"{directory}: {error.strerror}") from error
    finally:
        os.close(descriptor)
