# SPDX-License-Identifier: Apache-2.0
"""A layer's blob as a verified, bounded stream of tar bytes.

Called by `layers`, and by what reads and writes `docker save` archives. A blob's media type must
say that it is a layer at all. Digest and size of what is stored, and the digest of what comes out,
are computed on the way; nothing that was read counts before `finish` has returned.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.decode import CHUNK, DAMAGE, HashedFile, decoder
from waggle.infra.oci.image import Descriptor
from waggle.infra.oci.limits import Limits

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


def is_layer(descriptor: Descriptor) -> bool:
    """Tell whether a blob's media type is one of a file system layer."""
    return descriptor.media_type in _LAYER_TYPES


class LayerStream(io.RawIOBase):
    """The unpacked bytes of one layer. Wrap it in `io.BufferedReader`; call `finish` at the end."""

    def __init__(
        self, blob: BinaryIO, descriptor: Descriptor, limits: Limits, advance: Callable[[int], None]
    ) -> None:
        """Read from `blob`, which the caller closes; `advance` is told the packed bytes read."""
        super().__init__()
        if not is_layer(descriptor):
            raise ImageCorrupt(f"Layer {descriptor.digest} is not a file system layer.")
        self._descriptor = descriptor
        self._limits = limits
        self._stored = HashedFile(blob, advance)
        self._unpacked = hashlib.sha256()
        self.unpacked_bytes = 0
        self._source = decoder(self._stored)

    def readable(self) -> bool:
        """Say that this stream can be read."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed's Buffer is a memoryview here)
        """Fill `buffer` with unpacked bytes; refuse damaged data and decompression bombs."""
        try:
            data = self._source.read(len(buffer))
        except DAMAGE as error:
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
        scratch = memoryview(bytearray(CHUNK))
        while self.readinto(scratch):
            pass
        while self._stored.read(CHUNK):
            pass
        digest = self._descriptor.digest
        if self._stored.hex != self._descriptor.hex:
            raise ImageCorrupt(f"Blob {digest} does not have that digest.")
        if diff_id and f"sha256:{self._unpacked.hexdigest()}" != diff_id:
            raise ImageCorrupt(f"Layer {digest} does not unpack to its diff id {diff_id}.")
