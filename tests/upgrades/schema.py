"""What regionds of one version find in the database: to be recorded and compared.

`python -m tests.upgrades.schema NAME DSN` records the schema of that database under a name; see `test_schema.py`.
"""

import json
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg2

RECORDS: Final = Path(__file__).parent / "schemas"

Schema = dict[str, Any]

_COLUMN_LIST: Final = re.compile(r"\(([a-z_, ]+)\)")

_COLUMNS: Final = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef OR a.attidentity <> ''
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
      AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attname"""
_FUNCTIONS: Final = """
    SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', pg_get_function_result(p.oid)
    FROM pg_proc p LEFT JOIN pg_depend d ON d.objid = p.oid AND d.deptype IN ('e', 'i')
    WHERE p.pronamespace = 'public'::regnamespace AND d.objid IS NULL ORDER BY 1"""
_UNIQUE: Final = """
    SELECT conrelid::regclass::text || ': ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'x') AND conparentid = 0 ORDER BY 1"""

_CHECKS: Final = """
    SELECT conrelid::regclass::text || ': ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype = 'c' ORDER BY 1"""
_WORD: Final = re.compile(r"'([a-z-]+)'")


def schema_of(dsn: str) -> Schema:
    """Columns (type, may it be null, is there a default), functions with what they answer, what is unique, and which
    words a column may have.
    """
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(_COLUMNS)
        tables: dict[str, Any] = {}
        for table, column, sort, is_needed, has_default in cursor.fetchall():
            tables.setdefault(table, {})[column] = [sort, is_needed, has_default]
        cursor.execute(_FUNCTIONS)
        functions = dict(cursor.fetchall())
        cursor.execute(_UNIQUE)
        unique = [row[0] for row in cursor.fetchall()]
        cursor.execute(_CHECKS)
        words = {name: sorted(_WORD.findall(definition)) for name, definition in cursor.fetchall()}
        return {
            "tables": tables,
            "functions": functions,
            "unique": unique,
            "words": {k: w for k, w in words.items() if w},
        }


def load(name: str) -> Schema:
    """As it was recorded."""
    schema: Schema = json.loads((RECORDS / f"{name}.json").read_text())
    return schema


def complaints(then: Schema, now: Schema) -> list[str]:
    """What in `now` a regiond that knows `then` would stumble over."""
    found: list[str] = []
    for table, columns in then["tables"].items():
        if table not in now["tables"]:
            found.append(f"{table} is gone")
            continue
        present = now["tables"][table]
        for column, (sort, is_needed, _) in columns.items():
            if column not in present or present[column][0] != sort:
                found.append(f"{table}.{column} is gone or of another type")
            elif present[column][1] != is_needed:
                found.append(f"{table}.{column} may be null, and might not, or the other way round")
        for column in present.keys() - columns.keys():
            if present[column][1] and not present[column][2]:
                found.append(f"{table}.{column} is new and has no default")
    for function, answer in then["functions"].items():
        if now["functions"].get(function) != answer:
            found.append(f"{function} is gone or answers something else")
    for what in set(now["unique"]) - set(then["unique"]):
        table, _, definition = what.partition(": ")
        columns = _COLUMN_LIST.search(definition)
        named = columns[1].split(", ") if columns else []
        if named and all(name in then["tables"].get(table, {}) for name in named):
            found.append(f"new, and nothing that is written so far heeds it: {what}")
    for check, words in then["words"].items():
        if unknown := sorted(set(now["words"].get(check, ())) - set(words)):
            found.append(f"{check}: nothing that reads it so far knows {', '.join(unknown)}")
    return sorted(found)


if __name__ == "__main__":
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{sys.argv[1]}.json").write_text(json.dumps(schema_of(sys.argv[2]), indent=1) + "\n")
