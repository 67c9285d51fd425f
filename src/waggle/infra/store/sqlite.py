# SPDX-License-Identifier: Apache-2.0
"""The record of environments in one SQLite file, used from one thread of its own.

Implements `waggle.domain.protocols.EnvironmentStore`. Opened by the composition root and by the
CLI's read-only commands. Survives `kill -9` and power cuts (write-ahead log, synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

from waggle.domain.environment import Environment, State
from waggle.domain.errors import WaggleError
from waggle.infra.store.errors import StateUnavailable, corrupt, translate
from waggle.infra.store.rows import COLUMNS, Value, from_row, to_row
from waggle.infra.store.schema import NotOurs, migrate

KEEP_DESTROYED = 1_000
BUSY_SECONDS = 10.0

T = TypeVar("T")

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
    """An open database. Make it with `open`; every call is durable when it returns.

    A call that is cancelled may still take effect. Calls take effect in the order they are made.
    All raise StateUnavailable (disk full, ...) or StateCorrupt.
    """

    def __init__(self, path: Path, worker: ThreadPoolExecutor) -> None:
        """For `open`."""
        self._path = path
        self._worker = worker
        self._connection: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open or create the database at `path`, readable by its owner only.

        The directory must exist; a symlink is refused. The caller owns the store and must
        `aclose` it.
        """
        store = cls(path, ThreadPoolExecutor(1, thread_name_prefix="waggle-state"))
        try:
            await store._call(store._connect)
        except BaseException:
            await store.aclose()
            raise
        return store

    async def save(self, environment: Environment) -> None:
        """Insert or replace; forgets the oldest destroyed records beyond KEEP_DESTROYED."""
        row = to_row(environment)
        await self._call(lambda: self._save(row))

    async def get(self, environment_id: str) -> Environment | None:
        """The record with this id, destroyed ones included while they are remembered."""
        query = "SELECT * FROM environments WHERE id = ?"
        found = await self._call(lambda: self._select(query, environment_id))
        return found[0] if found else None

    async def unfinished(self) -> Sequence[Environment]:
        """All records that are not destroyed, in the order of their last change."""
        query = "SELECT * FROM environments WHERE state != ? ORDER BY changed"
        return await self._call(lambda: self._select(query, State.DESTROYED.value))

    async def aclose(self) -> None:
        """Finish what was called, and close. Idempotent; finishes when cancelled."""
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._close_and_wait))

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except sqlite3.Error as error:
            raise translate(self._path, error) from error
        except RuntimeError as error:
            if self._connection is None:
                raise StateUnavailable(f"The state database {self._path} is closed.") from error
            raise

    # What follows runs in the worker thread.

    def _connect(self) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StateUnavailable(
                f"The state database {self._path} cannot be opened: {error.strerror}.",
                hint="Check the data directory and its permissions.",
            ) from error
        self._connection = connection = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            migrate(connection)
        except NotOurs as error:
            raise corrupt(self._path, str(error)) from error

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StateUnavailable(f"The state database {self._path} is closed.")
        return self._connection

    def _save(self, row: dict[str, Value]) -> None:
        with self._open_connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SAVE, row)
            if row["state"] == State.DESTROYED.value:
                connection.execute(_PRUNE, (KEEP_DESTROYED,))

    def _select(self, query: str, argument: str) -> list[Environment]:
        rows = self._open_connection().execute(query, (argument,)).fetchall()
        try:
            return [from_row(cast("dict[str, Value]", dict(row))) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> WaggleError:
        return corrupt(self._path, f"a record cannot be read ({error})")

    def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def _close_and_wait(self) -> None:
        """Runs in another thread, which may wait for the worker."""
        try:
            self._worker.submit(self._close).result()
        except RuntimeError:
            return  # closed before
        self._worker.shutdown()
