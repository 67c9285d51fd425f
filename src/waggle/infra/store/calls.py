# SPDX-License-Identifier: Apache-2.0
"""The record of keyed calls in the state database. Implements `waggle.domain.repeat.CallStore`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from waggle.domain.repeat import KEEP, KEEP_PER_OWNER, KeyedCall, KnownCall
from waggle.infra.store.database import Database

_FIND = "SELECT fingerprint, result FROM calls WHERE owner = ? AND key = ? AND started_at > ?"
_FORGET_OLD = "DELETE FROM calls WHERE started_at <= ?"
_FORGET_MANY = """
    DELETE FROM calls WHERE owner = ?1 AND key IN (
        SELECT key FROM calls WHERE owner = ?1 ORDER BY started_at DESC LIMIT -1 OFFSET ?2)
"""
_BEGIN = "INSERT OR REPLACE INTO calls (owner, key, fingerprint, started_at) VALUES (?, ?, ?, ?)"
_FINISH = "UPDATE calls SET result = ? WHERE owner = ? AND key = ?"
_FORGET = "DELETE FROM calls WHERE owner = ? AND key = ?"


class SqliteCalls:
    """Keyed calls of one database. `now` gives seconds since the epoch. Raises as `Database`."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    async def find(self, call: KeyedCall) -> KnownCall | None:
        """What is on record and not too old."""
        oldest = self._now() - KEEP.total_seconds()
        rows = await self._database.read(_FIND, (call.owner, call.key, oldest))
        return KnownCall(rows[0]["fingerprint"], rows[0]["result"]) if rows else None

    async def begin(self, call: KeyedCall) -> None:
        """Put it on record; forgets what is older than KEEP, and an owner's oldest."""
        now = self._now()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_FORGET_OLD, (now - KEEP.total_seconds(),))
            connection.execute(_FORGET_MANY, (call.owner, KEEP_PER_OWNER - 1))
            connection.execute(_BEGIN, (call.owner, call.key, call.fingerprint, now))

        await self._database.write(work)

    async def finish(self, call: KeyedCall, result: str) -> None:
        """Keep its result."""
        await self._write(_FINISH, result, call.owner, call.key)

    async def forget(self, call: KeyedCall) -> None:
        """Take it off the record."""
        await self._write(_FORGET, call.owner, call.key)

    async def _write(self, statement: str, *arguments: str) -> None:
        await self._database.write(lambda connection: connection.execute(statement, arguments))
