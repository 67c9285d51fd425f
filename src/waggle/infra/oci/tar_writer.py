# SPDX-License-Identifier: Apache-2.0
"""Writes an archive of plain files, always the same bytes for the same files. Used by `export`.

The owner is 0, the mode 0644 and the time the epoch. A file whose size is not known before gets its
header when it is finished, so the archive must be seekable.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from typing import BinaryIO

_BLOCK = 512
_RECORD = 20 * _BLOCK


class TarWriter:
    """Appends files to `out`; the caller closes it and calls `finish` before."""

    def __init__(self, out: BinaryIO) -> None:
        """Write to `out` from its present position, which must be 0."""
        self._out = out

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Append a file of at most 8 EiB; `name` has at most 100 characters of ASCII."""
        out = self._out
        start = out.tell()
        out.write(bytes(_BLOCK))
        size = 0
        for piece in pieces:
            out.write(piece)
            size += len(piece)
        out.write(bytes(-size % _BLOCK))
        out.seek(start)
        info = tarfile.TarInfo(name)
        info.size = size
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.seek(0, 2)

    def finish(self) -> None:
        """Write the end of the archive."""
        self._out.write(bytes(2 * _BLOCK))
        self._out.write(bytes(-self._out.tell() % _RECORD))
