# SPDX-License-Identifier: Apache-2.0
"""The record of environments in the state database.

Implements `waggle.domain.observer.EnvironmentStore`. Opened by the composition root and by the
CLI's read-only commands.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from waggle.domain.environment import Environment, State
from waggle.infra.store.database import BUSY_SECONDS, Database
from waggle.infra.store.errors import corrupt
from waggle.infra.store.rows import COLUMNS, Value, from_row, to_row

__all__ = ["BUSY_SECONDS", "KEEP_DESTROYED", "SqliteStore"]

KEEP_DESTROYED = 1_000

_SAVE = f"""
    INSERT OR REPLACE INTO environments ({", ".join(COLUMNS)}, changed)
    VALUES ({", ".join(f":{column}" for column in COLUMNS)},
            (SELECT coalesce(max(changed), 0) + 1 FROM environments))
"""  # noqa: S608 - the columns are constants
_PRUNE = """
    DELETE FROM environments WHERE state = 'destroyed' AND changed <= (
        SELECT changed FROM environments WHERE state = 'destroyed'
        ORDER BY changed DESC LIMIT 1 OFFSET ?)
"""


class SqliteStore:
    """The environments of one database, which is the caller's to close. Raises as `Database`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open or create the database at `path`; the caller must `aclose` the store."""
        return cls(await Database.open(path))

    async def save(self, environment: Environment) -> None:
        """Insert or replace; forgets the oldest destroyed records beyond KEEP_DESTROYED."""
        row = to_row(environment)
        await self.database.write(lambda connection: _save(connection, row))

    async def get(self, environment_id: str) -> Environment | None:
        """The record with this id, destroyed ones included while they are remembered."""
        found = await self._select("SELECT * FROM environments WHERE id = ?", environment_id)
        return found[0] if found else None

    async def unfinished(self) -> Sequence[Environment]:
        """All records that are not destroyed, in the order of their last change."""
        query = "SELECT * FROM environments WHERE state != ? ORDER BY changed"
        return await self._select(query, State.DESTROYED.value)

    async def aclose(self) -> None:
        """Close the database. Idempotent; finishes when cancelled."""
        await self.database.aclose()

    async def _select(self, query: str, argument: str) -> list[Environment]:
        rows = await self.database.read(query, (argument,))
        try:
            return [from_row(cast("dict[str, Value]", dict(row))) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            path = self.database.path
            raise corrupt(path, f"a record cannot be read ({error})") from error


def _save(connection: sqlite3.Connection, row: dict[str, Value]) -> None:
    connection.execute(_SAVE, row)
    if row["state"] == State.DESTROYED.value:
        connection.execute(_PRUNE, (KEEP_DESTROYED,))
