# SPDX-License-Identifier: Apache-2.0
"""A layer's blob as a verified, bounded stream of tar bytes.

Called by `layers`. Whether a blob is gzip, zstd or plain is told by its first bytes; its media
type must say that it is a layer at all. Digest and size of what is stored, and the digest of what
comes out, are computed on the way; nothing that was read counts before `finish` has returned.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

import zstandard

from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.image import Descriptor
from waggle.infra.oci.limits import Limits

_CHUNK = 256 << 10
_ZSTD_WINDOW = 1 << 27
_ZSTD_PIECE = 2048
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))
_LAYER_TYPES = frozenset(
    prefix + suffix
    for prefix in (
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    )
    for suffix in ("", "+gzip", "+zstd", ".gzip", ".zstd")
)


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class LayerStream(io.RawIOBase):
    """The unpacked bytes of one layer. Wrap it in `io.BufferedReader`; call `finish` at the end."""

    def __init__(
        self, blob: BinaryIO, descriptor: Descriptor, limits: Limits, advance: Callable[[int], None]
    ) -> None:
        """Read from `blob`, which the caller closes; `advance` is told the packed bytes read."""
        super().__init__()
        if descriptor.media_type not in _LAYER_TYPES:
            raise ImageCorrupt(f"Layer {descriptor.digest} is not a file system layer.")
        self._descriptor = descriptor
        self._limits = limits
        self._stored = _HashedFile(blob, advance)
        self._unpacked = hashlib.sha256()
        self.unpacked_bytes = 0
        self._source = _decoder(self._stored)

    def readable(self) -> bool:
        """Say that this stream can be read."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed's Buffer is a memoryview here)
        """Fill `buffer` with unpacked bytes; refuse damaged data and decompression bombs."""
        try:
            data = self._source.read(len(buffer))
        except (zlib.error, zstandard.ZstdError, EOFError, MemoryError) as error:
            digest = self._descriptor.digest
            raise ImageCorrupt(f"Layer {digest} cannot be unpacked: it is damaged.") from error
        buffer[: len(data)] = data
        self._unpacked.update(data)
        self.unpacked_bytes += len(data)
        self._check_bounds()
        return len(data)

    def _check_bounds(self) -> None:
        limits, out = self._limits, self.unpacked_bytes
        if out > limits.total_bytes:
            raise ImageCorrupt(f"The image unpacks to more than {limits.total_bytes} bytes.")
        if out > limits.ratio_from and out > limits.ratio * max(self._stored.count, 1):
            digest = self._descriptor.digest
            raise ImageCorrupt(f"Layer {digest} unpacks to over {limits.ratio} times its size.")

    def finish(self, diff_id: str) -> None:
        """Read what is left and hold the digests against the descriptor and `diff_id`."""
        scratch = memoryview(bytearray(_CHUNK))
        while self.readinto(scratch):
            pass
        while self._stored.read(_CHUNK):
            pass
        digest = self._descriptor.digest
        if self._stored.hex != self._descriptor.hex:
            raise ImageCorrupt(f"Blob {digest} does not have that digest.")
        if diff_id and f"sha256:{self._unpacked.hexdigest()}" != diff_id:
            raise ImageCorrupt(f"Layer {digest} does not unpack to its diff id {diff_id}.")


class _HashedFile:
    """A file whose bytes are counted and hashed as they are read."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._advance = advance
        self._ahead = b""
        self.count = 0

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()

    def peek(self) -> bytes:
        self._ahead = self._ahead or self._fetch(_CHUNK)
        return self._ahead[:8]

    def read(self, size: int = _CHUNK, /) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._fetch(size)

    def _fetch(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self.count += len(data)
        self._advance(len(data))
        return data


def _decoder(stored: _HashedFile) -> _Source:
    magic = stored.peek()
    if magic.startswith(_GZIP_MAGIC):
        return _Gzip(stored)
    if magic.startswith(_ZSTD_MAGIC):
        return _Zstd(stored)
    return stored


class _Zstd:
    """One or more zstd frames, an unfinished last one told; skippable frames count as empty.

    Input goes in small pieces, because one byte of it may become up to 32 KiB.
    """

    def __init__(self, stored: _HashedFile) -> None:
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

    def __init__(self, stored: _HashedFile) -> None:
        self._stored = stored
        self._member = zlib.decompressobj(wbits=31)
        self._input = b""

    def read(self, size: int, /) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            if not self._input:
                self._input = self._stored.read(_CHUNK)
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
            rest = self._stored.read(_CHUNK)
            if not rest:
                return False
        self._input = rest.lstrip(b"\0")
        self._member = zlib.decompressobj(wbits=31)
        return True
