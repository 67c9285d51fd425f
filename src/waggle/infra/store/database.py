# SPDX-License-Identifier: Apache-2.0
"""The state database: one SQLite file with its own thread, its schema as migrations, its errors.

Opened by `SqliteStore`; shared by all records. Survives `kill -9` and power cuts (write-ahead log,
synchronous=FULL). Knows the schema, not the meaning of rows.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from waggle.domain.errors import DiskFull, WaggleError
from waggle.infra.shared.disk_room import full, is_full

APPLICATION_ID = 0x7761676C
"""`wagl`, in the header of the file: marks waggle's databases."""

# Append only: never edit a migration. `PRAGMA user_version` counts those that were applied.
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
    (
        "ALTER TABLE environments ADD COLUMN last_job INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE environments ADD COLUMN fork_of TEXT",
    ),
    ("ALTER TABLE environments ADD COLUMN exposed TEXT NOT NULL DEFAULT '[]'",),
    ("ALTER TABLE environments ADD COLUMN registries TEXT",),
    ("ALTER TABLE environments ADD COLUMN secrets TEXT",),
    (
        "ALTER TABLE environments ADD COLUMN hypervisor TEXT NOT NULL DEFAULT ''",
        # Of what a server left, only frozen machines live on, and only QEMU could freeze.
        "UPDATE environments SET hypervisor = 'qemu' WHERE state <> 'destroyed'",
    ),
)


class NotOurs(Exception):
    """A database of another program or of a newer waggle; the message says which."""


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


_CORRUPT_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_DISK_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
"""SQLite's only errors for a used-up quota, or no room for its files beside the database."""
_LEAST_FREE = 64 << 10
"""Less does not hold the shared memory and the first pages of a write-ahead log."""


class StateCorrupt(WaggleError):
    """The state database is damaged, or not waggle's."""

    code = "state_corrupt"


class StateUnavailable(WaggleError):
    """The state database cannot be used now: no permission, locked, a disk that fails."""

    code = "state_unavailable"
    retryable = True


def corrupt(path: Path, reason: str) -> StateCorrupt:
    """Return the error for a database that cannot be read."""
    return StateCorrupt(
        f"The state database {path} cannot be used: {reason}.",
        hint="Move it away and start again; environments of the earlier server, whose machines "
        "end with it, are then forgotten.",
    )


def translate(path: Path, error: sqlite3.Error) -> WaggleError:
    """Return the WaggleError for an error of SQLite."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in _CORRUPT_CODES:
        return corrupt(path, str(error))
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull(f"The server's disk is full: there is no room for its state ({error}).")
    if primary in _DISK_CODES and (why := _full(path)) is not None:
        return full(why, f"the directory of its state ({error})")
    return StateUnavailable(
        f"The state database {path} cannot be used now: {error}.",
        hint="Check free space and permissions of the data directory.",
    )


def _full(path: Path) -> OSError | None:
    """Return the system's error for a small file beside the database, if it does not fit."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(_LEAST_FREE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error if is_full(error) else None
    return None


BUSY_SECONDS = 10.0

T = TypeVar("T")


class Database:
    """An open database. Make it with `open`; a `write` is durable when it returns.

    Calls take effect in the order in which they are made. A cancelled call may still take effect.
    All calls raise StateUnavailable, DiskFull or StateCorrupt.
    """

    def __init__(self, path: Path, worker: ThreadPoolExecutor) -> None:
        """Used by `open` only."""
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
        """Call `work` in the worker thread, in a transaction that excludes other writers."""
        return await self._call(lambda: self._in_transaction("BEGIN IMMEDIATE", work))

    async def read(self, query: str, arguments: Sequence[object]) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        return await self._call(
            lambda: self._in_transaction("BEGIN", lambda c: c.execute(query, arguments).fetchall())
        )

    async def aclose(self) -> None:
        """Finish pending calls and close. Idempotent; finishes when cancelled."""
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

    # The methods below run in the worker thread.

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
        """Close and wait for the worker, in another thread that may block."""
        try:
            self._worker.submit(self._close).result()
        except RuntimeError:
            return  # closed before
        self._worker.shutdown()
