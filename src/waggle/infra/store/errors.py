# SPDX-License-Identifier: Apache-2.0
"""How the state database fails, in the family that every layer understands."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from waggle.domain.errors import DiskFull, WaggleError
from waggle.infra.disk_room import free_bytes

_CORRUPT_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_DISK_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_LEAST_FREE = 64 << 10
"""Less does not hold the shared memory and the first pages of a write-ahead log."""


class StateCorrupt(WaggleError):
    """The state database is damaged, or not one of waggle's."""

    code = "state_corrupt"


class StateUnavailable(WaggleError):
    """The state database cannot be used now: no permission, locked, a disk that fails."""

    code = "state_unavailable"
    retryable = True


def corrupt(path: Path, reason: str) -> StateCorrupt:
    """The error for a database that cannot be read."""
    return StateCorrupt(
        f"The state database {path} cannot be used: {reason}.",
        hint="Move it away and start again; environments of the earlier server, whose machines "
        "end with it, are then forgotten.",
    )


def translate(path: Path, error: sqlite3.Error) -> WaggleError:
    """The WaggleError for what SQLite raised."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in _CORRUPT_CODES:
        return corrupt(path, str(error))
    if primary == sqlite3.SQLITE_FULL or (primary in _DISK_CODES and _is_full(path)):
        return DiskFull(f"The server's disk is full: there is no room for its state ({error}).")
    return StateUnavailable(
        f"The state database {path} cannot be used now: {error}.",
        hint="Check free space and permissions of the data directory.",
    )


def _is_full(path: Path) -> bool:
    """Whether there is no room for SQLite's own files beside the database, whatever it says."""
    try:
        return free_bytes(path.parent) < _LEAST_FREE
    except OSError:
        return False
