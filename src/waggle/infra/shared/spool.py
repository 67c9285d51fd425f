# SPDX-License-Identifier: Apache-2.0
"""A spool: one output stream, kept while and after it is written, in memory or an unnamed file.

Implements `domain.programs.Stream` for `service.programs.jobs`. The file has no name, so it
disappears when the process ends, however it ends.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from waggle.domain.programs import Output
from waggle.infra.shared.disk_room import is_full
from waggle.infra.shared.sparse import write_at

IN_MEMORY = 64 * 1024
"""Bytes of a stream that are kept without a file."""
TAIL = 128 * 1024
"""Bytes kept of the end of a stream that is too long to be kept whole."""


class Spool:
    """The first `keep` bytes of a stream, and its last `TAIL`. Close it to free them.

    `output` returns at most `view` bytes. A full disk ends the kept beginning; it never fails the
    command.
    """

    def __init__(self, directory: Path, *, keep: int, view: int) -> None:
        self._directory = directory
        self._memory = bytearray()  # the kept bytes while there is no file
        self._file: io.FileIO | None = None
        self._closed = False
        self.disk_full = False
        """Whether bytes were not kept because the disk is full, not because of their number."""
        self._keep = keep
        self._view = view
        self._kept = 0
        self._rest = bytearray()  # the last bytes that are not in the file
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes that were written to the stream."""
        return self._total

    @property
    def kept(self) -> int:
        """Bytes kept of its beginning."""
        return self._kept

    @property
    def tail(self) -> int:
        """The offset at which the kept end begins."""
        return self._total - len(self._rest)

    def feed(self, data: bytes) -> None:
        """Take the next piece. Writes to the page cache; does not wait for a disk."""
        self._total += len(data)
        stored = self._store(data[: self._keep - self._kept])
        self._rest += data[stored:]
        if len(self._rest) > 2 * TAIL:
            del self._rest[:-TAIL]

    def skip(self, count: int) -> None:
        """Note bytes that are missing: the beginning ends before them, and the end begins after."""
        self._total += count
        self._keep = self._kept
        self._rest.clear()

    def _store(self, data: bytes) -> int:
        if not data or self._closed:
            return 0
        try:
            if self._file is None and self._kept + len(data) <= IN_MEMORY:
                self._memory += data
            else:
                write_at(self._opened().fileno(), data, self._kept)
        except OSError as error:
            self.disk_full = is_full(error)
            self._keep = self._kept
            return 0
        self._kept += len(data)
        return len(data)

    def _opened(self) -> io.FileIO:
        """Return the file with all bytes kept so far. Raises OSError; nothing is lost then."""
        if self._file is None:
            file = tempfile.TemporaryFile(buffering=0, dir=self._directory)  # noqa: SIM115
            try:
                write_at(file.fileno(), self._memory, 0)
            except BaseException:
                file.close()
                raise
            self._file = file
            self._memory.clear()
        return self._file

    def read(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes from `offset`; fewer at the end, and where a gap begins.

        Raises ValueError for an offset in the gap of bytes that were not kept.
        """
        if offset < self._kept:
            end = min(offset + length, self._kept)
            if self._file is None:
                return bytes(self._memory[offset:end])
            return os.pread(self._file.fileno(), end - offset, offset)
        begin = self.tail
        if offset < begin:
            raise ValueError(f"bytes {self._kept} to {begin} were not kept")
        return bytes(self._rest[offset - begin : offset - begin + length])

    def output(self) -> Output:
        """Return the whole stream, or two halves of `view` from its beginning and end."""
        if self._total <= self._view and self.tail <= self._kept:
            return Output(self._last(self._total))
        head = min(self._view - self._view // 2, self._kept)
        return Output(self.read(0, head) if head else b"", self._last(self._view // 2), self._total)

    def _last(self, length: int) -> bytes:
        """Return the last bytes, at most `length`, as far as they are kept in one piece."""
        rest = bytes(self._rest[-length:]) if length else b""
        missing = min(length, self._total) - len(rest)
        if missing <= 0 or self.tail > self._kept:
            return rest
        return self.read(self._kept - missing, missing) + rest

    def last_line(self) -> str:
        """Return the last line that is not empty, of the last 4,000 bytes. The guest wrote it."""
        lines = self._last(4000).decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Free the kept beginning; the kept end stays. Idempotent."""
        self._closed = True
        self._memory.clear()
        if self._file is not None:
            self._file.close()
        self._kept = self._keep = 0
