# SPDX-License-Identifier: Apache-2.0
"""Keep the head and the tail of a stream of any length, in bounded memory. Pure."""

from __future__ import annotations

from waggle.domain.programs.execution import Output


class OutputCollector:
    """Keeps at most `limit` bytes: the first half, and the last half of what follows.

    Memory is at most half as much again, however small the pieces are.
    """

    def __init__(self, limit: int) -> None:
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_limit:
            del self._tail[: len(self._tail) - self._tail_limit]

    def output(self) -> Output:
        """What is kept so far."""
        tail = self._tail[max(0, len(self._tail) - self._tail_limit) :]
        return Output(bytes(self._head), bytes(tail), self._total)
