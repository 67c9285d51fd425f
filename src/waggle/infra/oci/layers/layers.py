# SPDX-License-Identifier: Apache-2.0
"""Unpacks and verifies one layer: a list of entries and one data file with all file contents.

Called by `flatten`, `disk_maker` and the image builder; `docker_archive` and `export` use
`LayerStream`. Names never become paths: contents go to the one data file, at multiples of 4 KiB so
that the kernel can clone or copy them into a disk image. Both results depend on the layer alone, so
images can share them. The media type must be a layer's. The blob's size and digest and the digest
of the unpacked bytes are computed on the way; nothing read counts before `finish` has returned.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import Limits, new_hash
from waggle.infra.archive.decode import CHUNK, BoundedStream, CountedFile, HashedFile
from waggle.infra.archive.tar import Entry, TarReader
from waggle.infra.oci.store.image import Descriptor

_STEP = 1 << 20
"""Bytes passed to the thread at once; up to two steps are held in memory."""


class ThreadedHash:
    """A digest computed in its own thread, one step behind. `close` ends the thread.

    Hashing a layer takes as long as unpacking it and both release the interpreter lock, so two
    cores halve the time.
    """

    def __init__(self, digest: str) -> None:
        """Hash with the algorithm of `digest`."""
        self._hash = new_hash(digest)
        self._pool = ThreadPoolExecutor(1, "waggle-hash")
        self._running: Future[None] | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def update(self, data: bytes) -> None:
        """Hash more bytes; waits while the previous step is still running."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _STEP:
            self._hand_over()

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""
        self._hand_over()
        self._settle()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread after its pending work. Idempotent."""
        self._pool.shutdown()

    def _hand_over(self) -> None:
        self._settle()
        parts, self._parts, self._size = self._parts, [], 0
        self._running = self._pool.submit(self._take, parts)

    def _settle(self) -> None:
        if self._running is not None:
            self._running.result()

    def _take(self, parts: list[bytes]) -> None:
        for part in parts:
            self._hash.update(part)


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
    """Return whether a blob's media type is that of a file system layer."""
    return descriptor.media_type in _LAYER_TYPES


class LayerStream(BoundedStream):
    """The unpacked bytes of one layer. Call `finish` at the end; `close` ends its thread."""

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
        """Read from `blob`, which the caller closes; `advance` gets the packed bytes read.

        `diff_id` is the expected digest of the unpacked bytes, or empty. `verified` means that
        `blob` itself ends only when its digest is right, and fails otherwise.
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
        """Read the rest and check the digests against the descriptor and the diff id."""
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


Advance = Callable[[float, str], None]
"""Gets the fraction done (0 to 1) and a description; may raise to stop the work."""


class Meter:
    """Turns bytes counted in any thread into a fraction, at most `share`, and a text."""

    def __init__(
        self, total: int, text: str, advance: Advance, share: float = 1.0, *, megabytes: bool = True
    ) -> None:
        """`megabytes` adds the numbers to the text."""
        self._total, self._text = max(total, 1), text
        self._advance, self._share, self._megabytes = advance, share, megabytes
        self._done = 0
        self._lock = Lock()
        self.stop = Event()
        """Set to end all threads that count."""

    def count(self, size: int) -> None:
        """Add bytes and report the progress. Raises Stopped after `stop`."""
        with self._lock:
            if self.stop.is_set():
                raise Stopped
            self._done += size
            numbers = f": {self._done / 1e6:.1f} of {self._total / 1e6:.1f} MB"
            text = self._text + (numbers if self._megabytes else "")
            self._advance(min(self._done / self._total, 1.0) * self._share, text)


class Stopped(Exception):
    """Ends a thread after another one failed; never raised to callers."""


Take = Callable[[Entry], None]
"""Gets every entry of a layer, in archive order."""
ALIGN = 4096
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerData:
    """An unpacked layer: its entries in archive order and the file with their contents."""

    entries: Sequence[Entry]
    data: Path
    unpacked_bytes: int


def read_layer(
    blob: BinaryIO,
    descriptor: Descriptor,
    diff_id: str,
    data: Path,
    take: Take,
    limits: Limits,
    *,
    advance: Callable[[int], None],
    verified: bool = False,
) -> int:
    """Unpack and verify one layer; `data` must not exist and is the caller's to remove.

    `take` gets every entry; none is kept here. `advance` gets the packed bytes as they are read and
    may raise to stop. `verified` is as in `LayerStream`. Blocks the thread. Returns the unpacked
    bytes. Raises ImageCorrupt (then nothing read so far may be used), OSError, and what `blob`
    raises.
    """
    with (
        LayerStream(blob, descriptor, diff_id, limits, advance, verified=verified) as stream,
        data.open("xb") as out,
    ):
        buffered = io.BufferedReader(stream, _BUFFER)
        read_entries(buffered, out.fileno(), take, limits)
        stream.finish()
        return stream.unpacked_bytes


def read_entries(stream: BinaryIO, out: int, take: Take, limits: Limits) -> None:
    """Read a tar stream to its end; write contents to the descriptor `out` from offset 0."""
    reader = TarReader(stream, limits)
    end = total = metadata = 0
    for count, entry in enumerate(reader):
        if count >= limits.entries:
            raise ImageCorrupt(f"A layer has more than {limits.entries} entries.")
        if sum(len(name) + len(value) + 8 for name, value in entry.xattrs) > limits.xattr_bytes:
            raise ImageCorrupt("A layer has a file with too many extended attributes.")
        metadata += weight(entry)
        check_metadata(metadata, limits)
        total += entry.size
        if total > limits.total_bytes:
            raise ImageCorrupt(f"The image unpacks to more than {limits.total_bytes} bytes.")
        for offset, chunk in reader.content():
            os.pwrite(out, chunk, end + offset)
        take(dataclasses.replace(entry, offset=end) if entry.size else entry)
        end += -(-entry.size // ALIGN) * ALIGN
    os.ftruncate(out, end)


def weight(entry: Entry) -> int:
    """Return the bytes of an entry's metadata."""
    attributes = sum(len(name) + len(value) for name, value in entry.xattrs)
    return sum(map(len, entry.path)) + len(entry.link) + attributes


def check_metadata(count: int, limits: Limits) -> None:
    """Raise ImageCorrupt when an image's names, links and attributes take too many bytes."""
    if count > limits.metadata_bytes:
        raise ImageCorrupt(
            f"Its names, links and attributes take more than {limits.metadata_bytes} bytes."
        )
