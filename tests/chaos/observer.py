"""What the database itself saw: triggers note every change of a generation and of a host map, in its transaction.

They are the test's, not the product's: a table of host maps forgets what it was, and a hole in the past cannot be seen
in the present.
"""

from collections import defaultdict
from typing import Final

from tests.chaos.postgres import Database

_SQL: Final = """
CREATE TABLE observed_generation (
    subnet bigint NOT NULL, before bigint NOT NULL, after bigint NOT NULL, digest bigint NOT NULL,
    transaction xid8 NOT NULL DEFAULT pg_current_xact_id());
CREATE TABLE observed_map (
    subnet bigint NOT NULL, generation bigint NOT NULL, transaction xid8 NOT NULL DEFAULT pg_current_xact_id());

CREATE FUNCTION observe_generation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO observed_generation (subnet, before, after, digest)
    VALUES (new.id, old.generation, new.generation, new.digest);
    RETURN NULL;
END $$;
CREATE FUNCTION observe_map() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO observed_map (subnet, generation) VALUES (new.subnet, new.generation);
    RETURN NULL;
END $$;
CREATE TRIGGER observe_generation AFTER UPDATE ON subnet FOR EACH ROW
    WHEN (old.generation <> new.generation OR old.digest <> new.digest) EXECUTE FUNCTION observe_generation();
CREATE TRIGGER observe_map AFTER INSERT OR UPDATE ON host_map FOR EACH ROW EXECUTE FUNCTION observe_map();
"""


def observe(server: Database) -> None:
    """Begin to watch; after the migrations, before the first claim."""
    server.query(_SQL)


def generation_violations(server: Database) -> list[str]:
    """Holes, repetitions, and host maps that changed without the generation that they name."""
    found = []
    steps: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for subnet, before, after, transaction in server.query(
        "SELECT subnet, before, after, transaction::text::bigint FROM observed_generation ORDER BY subnet, after"
    ):
        steps[subnet].append((before, after, transaction))
    changed = defaultdict(set)
    for subnet, generation, transaction in server.query(
        "SELECT DISTINCT subnet, generation, transaction::text::bigint FROM observed_map"
    ):
        changed[subnet].add((generation, transaction))
    for subnet, generation in server.query("SELECT id, generation FROM subnet"):
        mine = steps.pop(subnet, [])
        if [after for _, after, _ in mine] != list(range(1, generation + 1)):
            found.append(f"subnet {subnet}: its generations up to {generation} have a hole or a repetition")
        if any(after != before + 1 for before, after, _ in mine):
            found.append(f"subnet {subnet}: a generation was skipped")
        if changed[subnet] != {(after, transaction) for _, after, transaction in mine}:
            found.append(f"subnet {subnet}: host maps changed outside of the generation that they name")
    if steps:
        found.append(f"generations of subnets that are gone: {sorted(steps)}")
    return found
