# SPDX-License-Identifier: Apache-2.0
"""How the state database fails, in the family that every layer understands."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

from waggle.domain.errors import DiskFull, WaggleError
from waggle.infra.shared.disk_room import full, is_full

_CORRUPT_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_DISK_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
"""It says no more where a quota is used up, or there is no room for its files beside the database.
"""
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
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull(f"The server's disk is full: there is no room for its state ({error}).")
    if primary in _DISK_CODES and (why := _full(path)) is not None:
        return full(why, f"the directory of its state ({error})")
    return StateUnavailable(
        f"The state database {path} cannot be used now: {error}.",
        hint="Check free space and permissions of the data directory.",
    )


def _full(path: Path) -> OSError | None:
    """What the system says to a small file beside the database, if that does not fit."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(_LEAST_FREE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error if is_full(error) else None
    return None
