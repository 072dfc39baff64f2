"""The tables' history: migrations are applied in order, once, by whichever regiond comes first.

A migration is `migrations/NNNN_name.sql`, numbered upwards from 0001; numbers may be left out. It runs in a transaction
of its own, under an advisory lock, and is recorded in the table `migration` with the SHA-256 of its text: an applied
one never changes.

# Note [Rolling upgrade]
While the regionds of a region are upgraded one after the other, old ones work on the schema that the first new one
made. A migration says in a line of its own which migration a regiond has to know to work with what it leaves:

    -- works for regionds that know 0012

Such a migration only adds: tables, columns with a default, fields in the JSON that functions answer (readers pass over
fields that they do not know), never a new meaning under an old name. What an older regiond still uses goes away one
release later, by a migration without such a line: that one works only for regionds that bring it. What each release
works with is recorded in `tests/upgrades`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import psycopg2
from twisted.logger import Logger

from regiond.storage.errors import SchemaError
from regiond.storage.pool import Pool, Session

__all__ = ["Migration", "SchemaError", "current", "load_migrations", "migrate"]

# pg_advisory_xact_lock(class, object): class 0 is this project's "everything", class 1 a subnet
SCHEMA_LOCK: Final = (0, 0)
MIGRATION_DEADLINE_SECONDS: Final = 3600.0
OLDEST_SERVER: Final = 150_000  # as in server_version_num

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql\Z")
_WORKS_FOR: Final = re.compile(r"^-- works for regionds that know (\d{4})$", re.MULTILINE)

_log = Logger(namespace="storage")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `name` is without the number."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Of the text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode("utf-8")).hexdigest()

    @property
    def works_for(self) -> int:
        """The migration that a regiond has to know to work with the result; see Note [Rolling upgrade]."""
        said = _WORKS_FOR.search(self.sql)
        return self.number if said is None else int(said[1])

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"


@dataclass(frozen=True, slots=True)
class _Applied:
    name: str
    sha256: str
    works_for: int


def load_migrations() -> tuple[Migration, ...]:
    """The migrations that this regiond brings, in order. Raises SchemaError when the numbering is wrong."""
    found = []
    for file in files("regiond.storage").joinpath("migrations").iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE_NAME.match(file.name)
        if match is None:
            raise SchemaError(f"a migration's file is named NNNN_lower_case_words.sql, not {file.name}")
        found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    return tuple(found)


async def migrate(pool: Pool, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Bring the tables to this regiond's version; the names of the migrations that this call applied.

    Several regionds may do so at the same time: one works, the others wait. Raises SchemaError when a migration
    fails, when an applied one has another text here, when the database is too new for this regiond, or the server
    too old.
    """
    version, shown = (await pool.query("SELECT current_setting('server_version_num')::int, version()", retry=True))[0]
    require_server(version, shown)
    known = _numbered(load_migrations() if migrations is None else migrations)
    applied: list[str] = []
    while True:
        step = await pool.transaction(lambda session: _apply_next(session, known), deadline=MIGRATION_DEADLINE_SECONDS)
        if step is None:
            await _tell_newer(pool, known)
            return applied
        _log.info("applied migration {migration}", event="schema.migrated", migration=step)
        applied.append(step)


def require_server(version: int, shown: str) -> None:
    """Raises SchemaError for a server that is older than what regiond is tested with."""
    if version < OLDEST_SERVER:
        raise SchemaError(
            f"the database is {shown.partition(' on ')[0]}: PostgreSQL {OLDEST_SERVER // 10_000} or newer is needed"
        )


async def _tell_newer(pool: Pool, known: Sequence[Migration]) -> None:
    found = await pool.session(_applied, retry=True)
    if newer := _beyond(found, known):
        last = newer[-1]
        _log.warn(
            "the database is newer than this regiond and works for it: upgrade this regiond, too",
            event="schema.newer",
            migration=f"{last:04}_{found[last].name}",
        )


async def current(pool: Pool, migrations: Sequence[Migration] | None = None, *, deadline: float | None = None) -> bool:
    """Whether the tables are such that this regiond works with them."""
    known = _numbered(load_migrations() if migrations is None else migrations)

    async def look(session: Session) -> bool:
        if not await _has_table(session):
            return not known
        try:
            return _pending(await _applied(session), known) is None
        except SchemaError:
            return False

    return await pool.session(look, retry=True, deadline=deadline)


async def _apply_next(session: Session, known: Sequence[Migration]) -> str | None:
    # somebody else may need as long as it takes, and so may we
    await session.run("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
    await session.run("SELECT pg_advisory_xact_lock(%s, %s)", SCHEMA_LOCK)
    if not await _has_table(session):
        await session.run(
            "CREATE TABLE migration ("
            " number integer PRIMARY KEY,"
            " name text NOT NULL,"
            " sha256 text NOT NULL,"
            " works_for integer NOT NULL,"
            " applied timestamptz NOT NULL DEFAULT now())"
        )
    step = _pending(await _applied(session), known)
    if step is None:
        return None
    try:
        await session.run(step.sql)
    except psycopg2.Error as error:
        raise SchemaError(f"migration {step} failed: {error}".strip()) from error
    if not session.in_transaction:
        raise SchemaError(f"migration {step} ends its transaction by itself, which no migration may")
    await session.run(
        "INSERT INTO migration (number, name, sha256, works_for) VALUES (%s, %s, %s, %s)",
        [step.number, step.name, step.sha256, step.works_for],
    )
    return str(step)


async def _has_table(session: Session) -> bool:
    [(found,)] = await session.run("SELECT to_regclass('migration') IS NOT NULL")
    return bool(found)


async def _applied(session: Session) -> dict[int, _Applied]:
    rows = await session.run("SELECT number, name, sha256, works_for FROM migration")
    return {number: _Applied(*rest) for number, *rest in rows}


def _beyond(applied: dict[int, _Applied], known: Sequence[Migration]) -> list[int]:
    newest = max((migration.number for migration in known), default=0)
    return sorted(number for number in applied if number > newest)


def _pending(applied: dict[int, _Applied], known: Sequence[Migration]) -> Migration | None:
    """The first migration that is not applied. Raises SchemaError when the two histories are not one."""
    newest = max((migration.number for migration in known), default=0)
    for number in sorted(applied.keys() - {migration.number for migration in known}):
        if number < newest or applied[number].works_for > newest:
            raise SchemaError(
                f"the database is too new for this regiond: it has migration {number:04}_{applied[number].name}, which "
                f"this regiond does not know (it knows those up to {newest:04}); upgrade regiond"
            )
    for migration in known:
        record = applied.get(migration.number)
        if record is None:
            if any(number > migration.number for number in applied):
                raise SchemaError(f"the database has later migrations than {migration}, but not that one")
            return migration
        if (record.name, record.sha256) != (migration.name, migration.sha256):
            raise SchemaError(
                f"migration {migration} was applied to the database with another text ({record.name}, sha256 "
                f"{record.sha256[:12]}…, here {migration.sha256[:12]}…): this is not the regiond that made the database"
            )
    return None


def _numbered(migrations: Sequence[Migration]) -> Sequence[Migration]:
    numbers = [migration.number for migration in migrations]
    if numbers != sorted(set(numbers)) or numbers[:1] not in ([], [1]):
        raise SchemaError(f"migrations are numbered upwards from 1, not {numbers}")
    return migrations
