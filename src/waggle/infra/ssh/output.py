# SPDX-License-Identifier: Apache-2.0
"""Keep the head and the tail of a stream of any length, in bounded memory. Pure."""

from __future__ import annotations

from collections import deque

from waggle.domain.execution import Output


class OutputCollector:
    """Keeps at most `limit` bytes: the first half, and the last half of what follows."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail and self._tail_size - len(self._tail[0]) >= self._tail_limit:
            self._tail_size -= len(self._tail.popleft())

    def output(self) -> Output:
        """What is kept so far."""
        tail = b"".join(self._tail)
        cut = max(0, len(tail) - self._tail_limit)
        return Output(bytes(self._head), tail[cut:], self._total)
