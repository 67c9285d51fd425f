# SPDX-License-Identifier: Apache-2.0
"""A digest that is computed in a thread of its own, one step behind.

Called by `compress`: hashing a layer takes as long as unpacking it, and both leave the interpreter
lock, so that two cores do it in half of the time.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from waggle.infra.archive.decode import new_hash

_STEP = 1 << 20
"""Bytes handed over at once; up to two steps are held in memory."""


class ThreadedHash:
    """Takes bytes in order; `close` ends its thread."""

    def __init__(self, digest: str) -> None:
        """Hash with the algorithm of `digest`."""
        self._hash = new_hash(digest)
        self._pool = ThreadPoolExecutor(1, "waggle-hash")
        self._running: Future[None] | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def update(self, data: bytes) -> None:
        """Hash more; waits while the step before is still at work."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _STEP:
            self._hand_over()

    def hexdigest(self) -> str:
        """The digest of all that was given."""
        self._hand_over()
        self._settle()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread after what it has. Idempotent."""
        self._pool.shutdown()

    def _hand_over(self) -> None:
        self._settle()
        parts, self._parts, self._size = self._parts, [], 0
        self._running = self._pool.submit(self._take, parts)

    def _settle(self) -> None:
        if self._running is not None:
            self._running.result()

    def _take(self, parts: list[bytes]) -> None:
        for part in parts:
            self._hash.update(part)
