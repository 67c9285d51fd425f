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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.compress import LayerStream
from waggle.infra.oci.image import Descriptor
from waggle.infra.oci.limits import Limits
from waggle.infra.oci.tar import Entry, TarReader

ALIGN = 4096
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerData:
    """An unpacked layer: its entries in archive order and where their contents are."""

    entries: tuple[Entry, ...]
    data: Path
    unpacked_bytes: int


def read_layer(
    blob: BinaryIO,
    descriptor: Descriptor,
    diff_id: str,
    data: Path,
    limits: Limits,
    advance: Callable[[int], None],
    *,
    verified: bool = False,
) -> LayerData:
    """Unpack and verify one layer; `data` must not exist and is the caller's to remove.

    `advance` is told the packed bytes as they are read and may raise to give up. Blocks the thread.
    `verified` is as in `LayerStream`. Raises ImageCorrupt (nothing read before may be used then),
    OSError, and what `blob` raises.
    """
    with (
        LayerStream(blob, descriptor, diff_id, limits, advance, verified=verified) as stream,
        data.open("xb") as out,
    ):
        buffered = io.BufferedReader(stream, _BUFFER)
        entries = read_entries(buffered, out.fileno(), limits)
        stream.finish()
        return LayerData(entries, data, stream.unpacked_bytes)


def read_entries(stream: BinaryIO, out: int, limits: Limits, start: int = 0) -> tuple[Entry, ...]:
    """Read a tar stream to its end, writing contents to the descriptor `out` from `start` on."""
    reader = TarReader(stream, limits)
    entries: list[Entry] = []
    end, total = start, 0
    for entry in reader:
        if len(entries) >= limits.entries:
            raise ImageCorrupt(f"A layer has more than {limits.entries} entries.")
        if sum(len(name) + len(value) + 8 for name, value in entry.xattrs) > limits.xattr_bytes:
            raise ImageCorrupt("A layer has a file with too many extended attributes.")
        total += entry.size
        if total > limits.total_bytes:
            raise ImageCorrupt(f"The image unpacks to more than {limits.total_bytes} bytes.")
        for offset, chunk in reader.content():
            os.pwrite(out, chunk, end + offset)
        entries.append(dataclasses.replace(entry, offset=end) if entry.size else entry)
        end += -(-entry.size // ALIGN) * ALIGN
    os.ftruncate(out, end)
    return tuple(entries)
