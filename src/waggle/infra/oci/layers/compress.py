# SPDX-License-Identifier: Apache-2.0
"""A layer's blob as a verified, bounded stream of tar bytes.

Called by `layers`, and by what reads and writes `docker save` archives. A blob's media type must
say that it is a layer at all. Digest and size of what is stored, and the digest of what comes out,
are computed on the way; nothing that was read counts before `finish` has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.decode import BoundedStream, CountedFile, HashedFile
from waggle.infra.archive.decoders import CHUNK
from waggle.infra.archive.limits import Limits
from waggle.infra.oci.layers.hashing import ThreadedHash
from waggle.infra.oci.store.image import Descriptor

_LAYER_TYPES = frozenset(
    prefix + suffix
    for prefix in (
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    )
    for suffix in ("", "+gzip", "+zstd", "+xz", "+bzip2", ".gzip", ".zstd")
)


def is_layer(descriptor: Descriptor) -> bool:
    """Tell whether a blob's media type is one of a file system layer."""
    return descriptor.media_type in _LAYER_TYPES


class LayerStream(BoundedStream):
    """The unpacked bytes of one layer. Close it, for its thread; call `finish` at the end."""

    def __init__(
        self,
        blob: BinaryIO,
        descriptor: Descriptor,
        diff_id: str,
        limits: Limits,
        advance: Callable[[int], None],
        *,
        verified: bool = False,
    ) -> None:
        """Read from `blob`, which the caller closes; `advance` is told the packed bytes read.

        `diff_id` is what the unpacked bytes are to have, or empty.

        `verified` says that `blob` itself ends only when its digest is right, and fails otherwise.
        """
        self._unpacked = ThreadedHash(diff_id)  # first: `close` is called even when this raises
        if not is_layer(descriptor):
            raise ImageCorrupt(f"Layer {descriptor.digest} is not a file system layer.")
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._hashed = None if verified else HashedFile(blob, advance, descriptor.digest)
        stored = self._hashed or CountedFile(blob, advance)
        super().__init__(stored, limits, f"Layer {descriptor.digest}")

    def _took(self, data: bytes) -> None:
        self._unpacked.update(data)

    def finish(self) -> None:
        """Read what is left and hold the digests against the descriptor and the diff id."""
        scratch = memoryview(bytearray(CHUNK))
        while self.readinto(scratch):
            pass
        while self._stored.read(CHUNK):
            pass
        digest, diff_id = self._descriptor.digest, self._diff_id
        if self._hashed is not None and self._hashed.hex != self._descriptor.hex:
            raise ImageCorrupt(f"Blob {digest} does not have that digest.")
        if diff_id and self._unpacked.hexdigest() != diff_id.partition(":")[2]:
            raise ImageCorrupt(f"Layer {digest} does not unpack to its diff id {diff_id}.")

    def close(self) -> None:
        """End the stream and its thread; the blob stays open. Idempotent."""
        self._unpacked.close()
        super().close()
