# SPDX-License-Identifier: Apache-2.0
"""A blob on its way: the file that a transfer fills, which one reader may follow from a thread.

Made by `bring`, filled by `blobs`, read by whoever unpacks layers while they come. The file is the
buffer between the two, so neither side waits for the other's pace, and memory stays small. A reader
sees the end only after the digest was verified; whatever else happens to the transfer is an error.
"""

from __future__ import annotations

import io
import os
from enum import Enum
from pathlib import Path
from threading import Condition

from waggle.domain.errors import ImageUnavailable
from waggle.infra.archive.decode import new_hash


class _State(Enum):
    COMING = "more may come"
    WHOLE = "all is there and verified"
    ENDED = "no more comes"


class Incoming:
    """A new file with what came so far and its running digest.

    The methods are the writer's, one call at a time; only readers are safe in other threads.
    """

    def __init__(self, path: Path, algorithm: str = "sha256") -> None:
        """Make the file, which stays the caller's to place or to remove. Raises OSError."""
        self.size = 0
        self._algorithm = algorithm
        self._hash = new_hash(algorithm)
        self._changed = Condition()
        self._state = _State.COMING
        self._round = 0
        self._file = path.open("x+b", buffering=0)

    def write(self, parts: list[bytes]) -> None:
        """Add bytes. Raises OSError."""
        for part in parts:
            self._hash.update(part)
            view = memoryview(part)
            while view:
                view = view[self._file.write(view) :]
            self._tell(self.size + len(part))

    def restart(self) -> None:
        """Forget what came, and fail readers that have seen some of it."""
        if self.size:
            self._hash = new_hash(self._algorithm)
            self._round += 1
            self._tell(0)
            self._file.seek(0)
            self._file.truncate()

    def verify(self, digest: str) -> bool:
        """Tell whether what came has this digest; if so, readers are told that it is whole."""
        if f"{self._algorithm}:{self._hash.hexdigest()}" != digest:
            return False
        self._tell(self.size, _State.WHOLE)
        return True

    def sync(self) -> None:
        """Put it on the disk. Raises OSError."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End it; readers of what is not whole fail. Idempotent."""
        if self._state is _State.COMING:
            self._tell(self.size, _State.ENDED)
        self._file.close()

    def reader(self) -> io.BufferedReader:
        """Return a reader of its own descriptor from the start; closing it is the caller's.

        Its reads block until there is something, and raise ImageUnavailable when the transfer was
        given up or began again. They end at the latest with `close`.
        """
        return io.BufferedReader(_Reader(self, os.dup(self._file.fileno())))

    def read_at(self, descriptor: int, at: int, buffer: memoryview, seen: int) -> tuple[int, int]:
        """Wait for bytes at `at`; return how many were read, and the round that they are of."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.size > at or self._round != seen or self._state is not _State.COMING
            )
            if at and self._round != seen:
                raise ImageUnavailable("The transfer of this layer began again.")
            if self._state is _State.ENDED:
                raise ImageUnavailable("The transfer of this layer was given up.")
            count, seen = min(len(buffer), self.size - at), self._round
        got = os.preadv(descriptor, [memoryview(buffer)[:count]], at) if count else 0
        with self._changed:
            if self._round != seen:
                raise ImageUnavailable("The transfer of this layer began again.")
        return got, seen

    def _tell(self, size: int, state: _State = _State.COMING) -> None:
        with self._changed:
            self.size, self._state = size, state
            self._changed.notify_all()


class _Reader(io.RawIOBase):
    def __init__(self, incoming: Incoming, descriptor: int) -> None:
        super().__init__()
        self._incoming = incoming
        self._descriptor = descriptor
        self._at = self._round = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed's Buffer is a memoryview here)
        count, self._round = self._incoming.read_at(self._descriptor, self._at, buffer, self._round)
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
