# SPDX-License-Identifier: Apache-2.0
"""One layer's blob -> a list of entries and one data file with all file contents.

Called by `flatten` and by the image builder. Names never become paths: whatever an archive holds,
its bytes land in the one file given, each content at a multiple of 4 KiB so that it can be cloned
or copied by the kernel into a disk image. Both results depend on the layer alone, so they can be
kept and shared between images.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.limits import Limits
from waggle.infra.archive.tar import Entry, TarReader
from waggle.infra.oci.layers.compress import LayerStream
from waggle.infra.oci.store.image import Descriptor

Take = Callable[[Entry], None]
"""Given each entry of a layer, in archive order."""
ALIGN = 4096
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerData:
    """An unpacked layer: its entries in archive order and where their contents are."""

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

    `take` is given each entry; none of them is kept here. `advance` is told the packed bytes as
    they are read and may raise to give up. Blocks the thread. `verified` is as in `LayerStream`.
    Returns the unpacked bytes. Raises ImageCorrupt (nothing read before may be used then), OSError,
    and what `blob` raises.
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
    """Read a tar stream to its end, writing contents to the descriptor `out` from 0 on."""
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
    """Bytes of an entry that are not its file's content."""
    attributes = sum(len(name) + len(value) for name, value in entry.xattrs)
    return sum(map(len, entry.path)) + len(entry.link) + attributes


def check_metadata(count: int, limits: Limits) -> None:
    """Raise ImageCorrupt when the names, links and attributes of an image are too many bytes."""
    if count > limits.metadata_bytes:
        raise ImageCorrupt(
            f"Its names, links and attributes take more than {limits.metadata_bytes} bytes."
        )
