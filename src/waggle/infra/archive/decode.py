# SPDX-License-Identifier: Apache-2.0
"""Decompression of untrusted data: streams that refuse damage and bombs.

`layers` uses it for image layers, `transfer.archive` for whole archives, `formats` for archives of
clients. The first bytes decide whether something is gzip, zstd, xz, bzip2 or plain; the callers set
the limits. Damaged data and data that needs too much memory raise one of `DAMAGE`. A decoder works
piece by piece and holds its window and the output of one read: at most about 8 MiB, however few
bytes are stored.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import BinaryIO, Protocol

import zstandard

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import Limits, new_hash

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


_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\0"
_BZIP2_MAGIC = tuple(b"BZh%d1AY&" % level for level in range(1, 10))
_ZSTD_MAGIC = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))


class CountedFile:
    """A file that counts the bytes read from it."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        """Read from `file`, which the caller closes; `advance` gets the size of every read."""
        self._file = file
        self._advance = advance
        self._ahead = b""
        self.count = 0

    def peek(self) -> bytes:
        """Return the first bytes without consuming them."""
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
    """A counted file that is also hashed."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None], digest: str) -> None:
        """Read from `file` as `CountedFile` does, with the algorithm of `digest`."""
        super().__init__(file, advance)
        self._hash = new_hash(digest)

    @property
    def hex(self) -> str:
        """The digest of the bytes read so far."""
        return self._hash.hexdigest()

    def _fetch(self, size: int) -> bytes:
        data = super()._fetch(size)
        self._hash.update(data)
        return data


class Compression(Enum):
    """A compression format; the value ends the media type of a layer stored in it."""

    NONE = ""
    GZIP = "+gzip"
    ZSTD = "+zstd"
    XZ = "+xz"
    BZIP2 = "+bzip2"


def compression_of(stored: CountedFile) -> Compression:
    """Detect the compression from the first bytes, without consuming them."""
    magic = stored.peek()
    if magic.startswith(_GZIP_MAGIC):
        return Compression.GZIP
    if magic.startswith(_XZ_MAGIC):
        return Compression.XZ
    if magic.startswith(_BZIP2_MAGIC):
        return Compression.BZIP2
    return Compression.ZSTD if magic.startswith(_ZSTD_MAGIC) else Compression.NONE


def decoder(stored: CountedFile, window: int) -> Source:
    """Decompress `stored`, looking back at most `window` bytes. Damage raises one of `DAMAGE`."""
    match compression_of(stored):
        case Compression.GZIP:
            return Gzip(stored)
        case Compression.ZSTD:
            return Zstd(stored, window)
        case Compression.XZ:
            return Streams(stored, partial(new_xz, window))
        case Compression.BZIP2:
            return Streams(stored, bz2.BZ2Decompressor)
        case Compression.NONE:
            return stored


class BoundedStream(io.RawIOBase):
    """The decompressed bytes. Wrap it in `io.BufferedReader`. Reading raises ImageCorrupt."""

    def __init__(self, stored: CountedFile, limits: Limits, what: str) -> None:
        """Decompress `stored`; `what` begins the error messages."""
        super().__init__()
        self._stored = stored
        self._source = decoder(stored, limits.window)
        self._limits = limits
        self._what = what
        self.unpacked_bytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed's Buffer is a memoryview here)
        """Fill `buffer` with decompressed bytes."""
        try:
            data = self._source.read(len(buffer))
        except DAMAGE as error:
            most = f"packed with a window of over {self._limits.window >> 20} MiB"
            message = f"{self._what} cannot be unpacked: it is damaged, cut off, or {most}."
            raise ImageCorrupt(message) from error
        buffer[: len(data)] = data
        self.unpacked_bytes += len(data)
        self._check_bounds()
        self._took(data)
        return len(data)

    def _took(self, data: bytes) -> None:
        """Hook for subclasses: gets all decompressed bytes."""

    def _check_bounds(self) -> None:
        limits, out = self._limits, self.unpacked_bytes
        if out > limits.total_bytes:
            raise ImageCorrupt(f"{self._what} unpacks to more than {limits.total_bytes} bytes.")
        if out > max(limits.ratio_from, limits.ratio * self._stored.count):
            raise ImageCorrupt(f"{self._what} unpacks to over {limits.ratio} times its size.")
