# SPDX-License-Identifier: Apache-2.0
"""One SQLite file, used from one thread of its own. Knows the schema, not what rows mean.

Opened by `SqliteStore`; shared by all records of the state. Survives `kill -9` and power cuts
(write-ahead log, synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from waggle.infra.shared.disk_room import full, is_full
from waggle.infra.store.errors import StateUnavailable, corrupt, translate
from waggle.infra.store.schema import NotOurs, migrate

BUSY_SECONDS = 10.0

T = TypeVar("T")


class Database:
    """An open database. Make it with `open`; what `write` did is durable when it returns.

    A call that is cancelled may still take effect. Calls take effect in the order they are made.
    All raise StateUnavailable, DiskFull or StateCorrupt.
    """

    def __init__(self, path: Path, worker: ThreadPoolExecutor) -> None:
        """For `open`."""
        self.path = path
        self._worker = worker
        self._connection: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open or create the database at `path`, readable by its owner only.

        The directory must exist; a symlink is refused. The caller owns it and must `aclose` it.
        """
        database = cls(path, ThreadPoolExecutor(1, thread_name_prefix="waggle-state"))
        try:
            await database._call(database._connect)
        except BaseException:
            await database.aclose()
            raise
        return database

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in the worker thread, in a transaction that no other writer is beside."""
        return await self._call(lambda: self._in_transaction("BEGIN IMMEDIATE", work))

    async def read(self, query: str, arguments: Sequence[object]) -> list[sqlite3.Row]:
        """All rows of a query."""
        return await self._call(
            lambda: self._in_transaction("BEGIN", lambda c: c.execute(query, arguments).fetchall())
        )

    async def aclose(self) -> None:
        """Finish what was called, and close. Idempotent; finishes when cancelled."""
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._close_and_wait))

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except sqlite3.Error as error:
            raise translate(self.path, error) from error
        except RuntimeError as error:
            if self._connection is None:
                raise StateUnavailable(f"The state database {self.path} is closed.") from error
            raise

    # What follows runs in the worker thread.

    def _connect(self) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
            try:
                os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
        except OSError as error:
            if is_full(error):
                raise full(error, "the directory of its state") from error
            raise StateUnavailable(
                f"The state database {self.path} cannot be opened: {error.strerror}.",
                hint="Check the data directory and its permissions.",
            ) from error
        self._connection = connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            migrate(connection)
        except NotOurs as error:
            raise corrupt(self.path, str(error)) from error

    def _in_transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise StateUnavailable(f"The state database {self.path} is closed.")
        with self._connection as connection:
            connection.execute(begin)
            return work(connection)

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
