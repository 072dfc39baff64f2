"""What a migration of the next release may do to a schema that is in use: see Note [Rolling upgrade] in
`regiond/storage/schema.py`.
"""

from contextlib import closing

import psycopg2


def migrate_further(dsn: str) -> str:
    """As the first regiond of the next release would: a column in every table, and a table. The migration's name."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'migration'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'ALTER TABLE "{table}" ADD COLUMN later jsonb NOT NULL DEFAULT \'{{"n": 1}}\'')
        cursor.execute("CREATE TABLE later_thing (device bigint REFERENCES device ON DELETE CASCADE)")
        cursor.execute(
            "INSERT INTO migration (number, name, sha256, works_for) "
            "SELECT max(number) + 1, 'later', repeat('0', 64), max(number) FROM migration RETURNING number, name"
        )
        ((number, name),) = cursor.fetchall()
        return f"{number:04}_{name}"
