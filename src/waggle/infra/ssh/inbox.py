# SPDX-License-Identifier: Apache-2.0
"""Bytes that were read from a peer and wait to be decoded. Used by `bounded`. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

PIECE: Final = 16 << 10
"""Bytes that asyncssh gets at once: it copies all that it holds for every packet."""


class Inbox:
    """A queue that is filled as the loop reads and emptied in small pieces."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self.size = 0

    def put(self, data: bytes) -> None:
        """Add what was read."""
        self._waiting.append(data)
        self.size += len(data)

    def piece(self) -> bytes:
        """Take the next bytes, PIECE at most. Not to be called when it is empty."""
        first = self._waiting.popleft()
        if len(first) > PIECE:
            self._waiting.appendleft(first[PIECE:])
            first = first[:PIECE]
        self.size -= len(first)
        return first

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()
        self.size = 0
