# SPDX-License-Identifier: Apache-2.0
"""Copies blobs and verifies them on the way. Called by `load` and `export`; blocks the thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.decode import new_hash
from waggle.infra.oci.layers.flatten import Advance
from waggle.infra.oci.store.image import Descriptor
from waggle.infra.oci.store.layout import Layout

PIECE = 1 << 20
Count = Callable[[int], None]
"""Told the bytes of each piece; may raise to give up."""


class Meter:
    """Turns counted bytes into a fraction, at most `share`, and a text."""

    def __init__(self, total: int, text: str, advance: Advance, share: float) -> None:
        self._total, self._text = max(total, 1), text
        self._advance, self._share = advance, share
        self._done = 0

    def count(self, size: int) -> None:
        """Add bytes and tell."""
        self._done += size
        text = f"{self._text}: {self._done / 1e6:.1f} of {self._total / 1e6:.1f} MB"
        self._advance(min(self._done / self._total, 1.0) * self._share, text)


def pieces(layout: Layout, blob: Descriptor, count: Count) -> Iterator[bytes]:
    """Read a blob and hold it against its digest: nothing of it counts before the end.

    Raises ImageMissing or ImageCorrupt.
    """
    digest = new_hash(blob.digest)
    with layout.open_blob(blob) as file:
        while data := file.read(PIECE):
            digest.update(data)
            count(len(data))
            yield data
    if digest.hexdigest() != blob.hex:
        raise ImageCorrupt(
            f"Blob {blob.digest} does not have that digest.", hint="Bring the image again."
        )


def copy(layout: Layout, blob: Descriptor, directory: Path, count: Count) -> Path:
    """Copy a blob into `directory`, on disk when this returns. Raises as `pieces` does."""
    target = directory / blob.hex
    with target.open("wb") as out:
        out.writelines(pieces(layout, blob, count))
        out.flush()
        os.fsync(out.fileno())
    return target
