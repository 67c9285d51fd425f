# SPDX-License-Identifier: Apache-2.0
"""Decompression and digests of untrusted data: streams that refuse damage and bombs.

`layers` uses it for image layers, `transfer.archive` for whole archives, `formats` for archives of
clients. The first bytes decide whether something is gzip, zstd, xz, bzip2 or plain; the callers set
the limits. A digest is `ALGORITHM:HEX`, in one of the two algorithms that OCI registers for images.
The image store names its manifests by sha256, whatever an index calls them; configurations and
layers keep the digests that their manifest states.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import re
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import BinaryIO, Final, Protocol

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import Limits
from waggle.infra.archive.decoders import CHUNK, DAMAGE, Gzip, Source, Streams, Zstd, new_xz

ALGORITHMS: Final = {"sha256": 64, "sha512": 128}
"""The algorithms and how many hexadecimal digits their digests have."""
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Hash(Protocol):
    """A running digest of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Hash more bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""
        ...


_NEW: Final[dict[str, Callable[[], Hash]]] = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


def new_hash(digest: str) -> Hash:
    """Return a new hash for a digest or an algorithm's name; sha256 for an empty text."""
    return _NEW[digest.partition(":")[0] or "sha256"]()


def algorithm_of(hex_: str) -> str:
    """Return the algorithm of a digest's hexadecimal digits, which their number determines."""
    return "sha512" if len(hex_) == ALGORITHMS["sha512"] else "sha256"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of `data`."""
    running = new_hash(algorithm)
    running.update(data)
    return f"{algorithm}:{running.hexdigest()}"


def has_digest(data: bytes, digest: str) -> bool:
    """Return whether `data` has this digest."""
    return digest_of(data, digest.partition(":")[0]) == digest


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
