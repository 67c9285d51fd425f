# SPDX-License-Identifier: Apache-2.0
"""What is stored, hashed and counted, and what comes out of it when it is unpacked.

Called by `compress` for layers and by `archive` for whole archives. Whether something is gzip,
zstd, xz, bzip2 or plain is told by its first bytes. Bounds are the callers' matter.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import BinaryIO

from waggle.infra.archive.decoders import CHUNK, Gzip, Source, Streams, Zstd, new_xz
from waggle.infra.archive.digests import new_hash

_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\0"
_BZIP2_MAGIC = tuple(b"BZh%d1AY&" % level for level in range(1, 10))
_ZSTD_MAGIC = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))


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

    def __init__(self, file: BinaryIO, advance: Callable[[int], None], digest: str) -> None:
        """Read from `file` as `CountedFile` does, to be held against `digest`."""
        super().__init__(file, advance)
        self._hash = new_hash(digest)

    @property
    def hex(self) -> str:
        """The digest of what was read so far."""
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
    XZ = "+xz"
    BZIP2 = "+bzip2"


def compression_of(stored: CountedFile) -> Compression:
    """Tell by the first bytes, which stay to be read."""
    magic = stored.peek()
    if magic.startswith(_GZIP_MAGIC):
        return Compression.GZIP
    if magic.startswith(_XZ_MAGIC):
        return Compression.XZ
    if magic.startswith(_BZIP2_MAGIC):
        return Compression.BZIP2
    return Compression.ZSTD if magic.startswith(_ZSTD_MAGIC) else Compression.NONE


def decoder(stored: CountedFile, window: int) -> Source:
    """Unpack what is read, looking back at most `window` bytes. Damage raises one of `DAMAGE`."""
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
