# SPDX-License-Identifier: Apache-2.0
"""Decoders for gzip, zstd, xz and bzip2 that work piece by piece. Called by `decode`.

Damaged data and data that needs too much memory raise one of `DAMAGE`. A decoder holds its window,
which callers limit, and the output of one read: at most about 8 MiB, however few bytes are stored.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

CHUNK = 256 << 10
_ZSTD_PIECE = 256
_XZ_OWN = 1 << 20


class BadStream(Exception):
    """The xz or bzip2 data is damaged or needs too much memory."""


DAMAGE = (zlib.error, zstandard.ZstdError, BadStream, EOFError, MemoryError)


class Source(Protocol):
    """A source of decompressed bytes."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes; empty at the end."""
        ...


class Zstd:
    """One or more zstd frames; an unfinished last one is reported, skippable frames count as empty.

    Input is fed in small pieces, because one byte of it may become up to 32 KiB.
    """

    def __init__(self, stored: Source, window: int) -> None:
        """Treat a frame with a window over `window` bytes as damaged."""
        self._stored = stored
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=window)
        self._frame = self._decompressor.decompressobj()
        self._output = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes; empty at the end."""
        while not self._output:
            self._output = memoryview(b"")  # frees the old bytes before new ones are made
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._stored.read(_ZSTD_PIECE)
            if not data and self._frame.eof:
                return b""
            if not data:
                raise EOFError
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            self._output = memoryview(self._frame.decompress(data))
        data, self._output = self._output[:size], self._output[size:]
        return bytes(data)


class Gzip:
    """One or more gzip members; output is limited to what the caller asks for."""

    def __init__(self, stored: Source) -> None:
        self._stored = stored
        self._member = zlib.decompressobj(wbits=31)
        self._input = b""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes; empty at the end."""
        while True:
            if self._member.eof and not self._next_member():
                return b""
            if not self._input:
                self._input = self._stored.read(CHUNK)
                if not self._input:
                    raise EOFError
            data = self._member.decompress(self._input, size)
            self._input = self._member.unconsumed_tail
            if data:
                return data

    def _next_member(self) -> bool:
        """Start the next member, if there is one; zero bytes after the last one are padding."""
        rest = self._member.unused_data
        while not rest.strip(b"\0"):
            rest = self._stored.read(CHUNK)
            if not rest:
                return False
        self._input = rest.lstrip(b"\0")
        self._member = zlib.decompressobj(wbits=31)
        return True


class _Decompressor(Protocol):
    """The common interface of the standard library's xz and bzip2 decompressors."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def new_xz(window: int) -> _Decompressor:
    """Return an xz decoder that uses at most 1 MiB besides a dictionary of `window` bytes."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=window + _XZ_OWN)


class Streams:
    """One or more xz or bzip2 streams; zero bytes between and after them are padding."""

    def __init__(self, stored: Source, new: Callable[[], _Decompressor]) -> None:
        self._stored = stored
        self._new = new
        self._stream = new()

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes; empty at the end."""
        while True:
            data = b""
            if self._stream.eof:
                data = self._behind()
                if not data:
                    return b""
                self._stream = self._new()
            elif self._stream.needs_input:
                data = self._stored.read(CHUNK)
                if not data:
                    raise EOFError
            try:
                unpacked = self._stream.decompress(data, size)
            except (OSError, lzma.LZMAError) as error:
                raise BadStream from error
            if unpacked:
                return unpacked

    def _behind(self) -> bytes:
        rest = self._stream.unused_data.lstrip(b"\0")
        while not rest:
            more = self._stored.read(CHUNK)
            if not more:
                return b""
            rest = more.lstrip(b"\0")
        return rest
