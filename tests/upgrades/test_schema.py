"""Migrations only add to what the regionds of an earlier release work with.

See Note [Rolling upgrade] in `regiond/storage/schema.py`.

That a regiond does not stumble over additions is shown by `test_programs.py` and, story by story, by
`tests/regiond/storage/test_stories_on_postgres.py`. A record belongs to a release and stays. Before there is one, a
migration that is edited in place makes its record anew (`schema.py`).
"""

import pytest

from tests.upgrades.later_schema import migrate_further
from tests.upgrades.schema import RECORDS, Schema, complaints, load, schema_of

NAMES = ("0028",)  # the last migration that the release knows


def test_every_record_is_looked_at() -> None:
    assert {path.stem for path in RECORDS.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_older_regiond_finds_what_it_knows(database: str, name: str) -> None:
    found = schema_of(database)
    assert complaints(load(name), found) == [], "add, and take away one release later; or see the docstring above"
    assert all(found.values())


def test_the_later_schema_of_the_other_tests_is_one_of_those_that_are_allowed(database: str) -> None:
    before = schema_of(database)
    migrate_further(database)
    assert complaints(before, schema_of(database)) == []


def test_whatever_is_not_an_addition_is_seen() -> None:
    then: Schema = {
        "tables": {
            "gone": {},
            "kept": {
                "id": ["bigint", True, False],
                "note": ["text", False, False],
                "dropped": ["text", False, False],
                "name": ["text", True, False],
            },
        },
        "functions": {"f(text)": "bigint", "g()": "text"},
        "unique": [],
        "words": {"kept: kept_state_check": ["off", "on"], "kept: kept_name_check": ["x"]},
    }
    now: Schema = {
        "tables": {
            "kept": {
                "id": ["text", True, False],
                "note": ["text", True, False],
                "name": ["text", True, False],
                "needed": ["text", True, False],
                "welcome": ["text", True, True],
                "optional": ["text", False, False],
            },
            "new": {"id": ["bigint", True, False]},
        },
        "functions": {"f(text)": "text"},
        "unique": ["kept: UNIQUE (name)", "kept: UNIQUE (name, optional)", "new: PRIMARY KEY (id)"],
        "words": {"kept: kept_state_check": ["broken", "on"], "new: new_check": ["y"]},
    }
    assert complaints(then, now) == [
        "f(text) is gone or answers something else",
        "g() is gone or answers something else",
        "gone is gone",
        "kept.dropped is gone or of another type",
        "kept.id is gone or of another type",
        "kept.needed is new and has no default",
        "kept.note may be null, and might not, or the other way round",
        "kept: kept_state_check: nothing that reads it so far knows broken",
        "new, and nothing that is written so far heeds it: kept: UNIQUE (name)",
    ]
