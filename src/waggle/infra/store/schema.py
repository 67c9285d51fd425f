# SPDX-License-Identifier: Apache-2.0
"""The schema of the state database, as a list of migrations. Append only: never edit one.

`PRAGMA user_version` says how many have been applied.
"""

from __future__ import annotations

import sqlite3

APPLICATION_ID = 0x7761676C
"""`wagl`, in the header of the file: tells our databases from others."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE environments (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            runtime TEXT NOT NULL,
            image TEXT NOT NULL,
            owner TEXT NOT NULL,
            state TEXT NOT NULL,
            cpus INTEGER NOT NULL,
            memory_mib INTEGER NOT NULL,
            disk_mib INTEGER NOT NULL,
            network TEXT NOT NULL,
            idle_us INTEGER NOT NULL,
            created_at TEXT NOT NULL,
            last_used_at TEXT NOT NULL,
            ssh_port INTEGER,
            machine TEXT,
            booted_from TEXT NOT NULL,
            error TEXT,
            changed INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX environments_by_change ON environments (state, changed)",
        "CREATE INDEX environments_last_change ON environments (changed)",
    ),
    (
        """
        CREATE TABLE calls (
            owner TEXT NOT NULL,
            key TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            started_at REAL NOT NULL,
            result TEXT,
            PRIMARY KEY (owner, key)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX calls_by_start ON calls (started_at)",
    ),
    (
        "ALTER TABLE calls ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
        "UPDATE calls SET size = length(CAST(result AS BLOB)) WHERE result IS NOT NULL",
        "CREATE INDEX calls_by_owner ON calls (owner, started_at, size)",
    ),
    ("ALTER TABLE environments ADD COLUMN paused_until TEXT",),
    (
        "ALTER TABLE environments ADD COLUMN variables TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE environments ADD COLUMN packages TEXT NOT NULL DEFAULT '[]'",
    ),
)


class NotOurs(Exception):
    """The file is a database of something else, or of a newer waggle; the text says which."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database up to date, one transaction per migration. Idempotent. Raises NotOurs."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (objects or version):
        raise NotOurs("it belongs to another program")
    if version > len(MIGRATIONS):
        raise NotOurs(f"a newer waggle wrote it (schema {version}, known {len(MIGRATIONS)})")
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
