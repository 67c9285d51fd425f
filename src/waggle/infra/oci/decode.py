# SPDX-License-Identifier: Apache-2.0
"""What is stored, hashed and counted, and what comes out of it when it is unpacked.

Called by `compress` for layers and by `archive` for whole archives. Whether something is gzip, zstd
or plain is told by its first bytes. Bounds are the callers' matter; each read gives at most about
64 MiB, however few bytes are stored.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from enum import Enum
from typing import BinaryIO, Protocol

import zstandard

CHUNK = 256 << 10
DAMAGE = (zlib.error, zstandard.ZstdError, EOFError, MemoryError)
_ZSTD_WINDOW = 1 << 27
_ZSTD_PIECE = 2048
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))


class Source(Protocol):
    """Where unpacked bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes; none at the end."""
        ...


class CountedFile:
    """A file whose bytes are counted as they are read."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        """Read from `file`, which the caller closes; `advance` is told the bytes as they come."""
        self._file = file
        self._advance = advance
        self._ahead = b""
        self.count = 0

    def peek(self) -> bytes:
        """Look at the first bytes without taking them."""
        self._ahead = self._ahead or self._fetch(CHUNK)
        return self._ahead[:8]

    def read(self, size: int = CHUNK, /) -> bytes:
        """Read at most `size` bytes."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._fetch(size)

    def _fetch(self, size: int) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        self._advance(len(data))
        return data


class HashedFile(CountedFile):
    """A counted file that is hashed, too."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        """Read from `file` as `CountedFile` does."""
        super().__init__(file, advance)
        self._hash = hashlib.sha256()

    @property
    def hex(self) -> str:
        """The sha256 of what was read so far."""
        return self._hash.hexdigest()

    def _fetch(self, size: int) -> bytes:
        data = super()._fetch(size)
        self._hash.update(data)
        return data


class Compression(Enum):
    """How something is stored; the value ends the media type of such a layer."""

    NONE = ""
    GZIP = "+gzip"
    ZSTD = "+zstd"


def compression_of(stored: CountedFile) -> Compression:
    """Tell by the first bytes, which stay to be read."""
    magic = stored.peek()
    if magic.startswith(_GZIP_MAGIC):
        return Compression.GZIP
    return Compression.ZSTD if magic.startswith(_ZSTD_MAGIC) else Compression.NONE


def decoder(stored: CountedFile) -> Source:
    """Unpack what is read. Damage raises one of `DAMAGE`."""
    match compression_of(stored):
        case Compression.GZIP:
            return _Gzip(stored)
        case Compression.ZSTD:
            return _Zstd(stored)
        case Compression.NONE:
            return stored


class _Zstd:
    """One or more zstd frames, an unfinished last one told; skippable frames count as empty.

    Input goes in small pieces, because one byte of it may become up to 32 KiB.
    """

    def __init__(self, stored: CountedFile) -> None:
        self._stored = stored
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame = self._decompressor.decompressobj()
        self._output = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._output:
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


class _Gzip:
    """One or more gzip members; output is bounded by what the caller asks for."""

    def __init__(self, stored: CountedFile) -> None:
        self._stored = stored
        self._member = zlib.decompressobj(wbits=31)
        self._input = b""

    def read(self, size: int, /) -> bytes:
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
        """Go on to a further member; zero bytes after the last one are padding."""
        rest = self._member.unused_data
        while not rest.strip(b"\0"):
            rest = self._stored.read(CHUNK)
            if not rest:
                return False
        self._input = rest.lstrip(b"\0")
        self._member = zlib.decompressobj(wbits=31)
        return True
