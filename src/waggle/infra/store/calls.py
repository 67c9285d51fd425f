# SPDX-License-Identifier: Apache-2.0
"""The record of keyed calls in the state database. Implements `waggle.domain.access.CallStore`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from waggle.domain.access import KEEP, KEEP_BYTES_PER_OWNER, KEEP_PER_OWNER, KeyedCall, KnownCall
from waggle.infra.store.database import Database

_FIND = "SELECT fingerprint, result FROM calls WHERE owner = ? AND key = ? AND started_at > ?"
_FORGET_OLD = "DELETE FROM calls WHERE started_at <= ?"
_FORGET_MANY = """
    DELETE FROM calls WHERE owner = ?1 AND key IN (
        SELECT key FROM calls WHERE owner = ?1 ORDER BY started_at DESC LIMIT -1 OFFSET ?2)
"""
_BEGIN = "INSERT OR REPLACE INTO calls (owner, key, fingerprint, started_at) VALUES (?, ?, ?, ?)"
_FINISH = "UPDATE calls SET result = ?3, size = ?4 WHERE owner = ?1 AND key = ?2"
_FORGET_MUCH = """
    DELETE FROM calls WHERE owner = ?1 AND key IN (
        SELECT key FROM (
            SELECT key, size, sum(size) OVER (ORDER BY started_at DESC, key DESC) AS newer
            FROM calls WHERE owner = ?1 AND key <> ?2)
        WHERE size > 0 AND newer > ?3)
"""
_FORGET = "DELETE FROM calls WHERE owner = ? AND key = ?"


class SqliteCalls:
    """Keyed calls of one database. `now` gives seconds since the epoch. Raises as `Database`.

    `keep_bytes` bounds the results of each owner together; the newest is kept whatever its size.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], float],
        *,
        keep_bytes: int = KEEP_BYTES_PER_OWNER,
    ) -> None:
        self._database = database
        self._now = now
        self._keep_bytes = keep_bytes

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
        """Keep its result; forgets an owner's oldest results, but none that is not there yet."""
        size = len(result.encode("utf-8"))

        def work(connection: sqlite3.Connection) -> None:
            place = (call.owner, call.key)
            connection.execute(_FORGET_MUCH, (*place, self._keep_bytes - size))
            connection.execute(_FINISH, (*place, result, size))

        await self._database.write(work)

    async def forget(self, call: KeyedCall) -> None:
        """Take it off the record."""
        place = (call.owner, call.key)
        await self._database.write(lambda connection: connection.execute(_FORGET, place))
