# SPDX-License-Identifier: Apache-2.0
"""Writes an archive of plain files, always the same bytes for the same files. Used by `export`.

The owner is 0, the mode 0644 and the time the epoch. A file whose size is not known before gets its
header when it is finished, so the archive must be seekable.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tarfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import BinaryIO

from waggle.domain.errors import InvalidArgument
from waggle.infra.shared.files import sync_directory

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


@contextlib.contextmanager
def appearing(path: Path) -> Generator[BinaryIO]:
    """Give a new file that takes the name `path` when all went well, and vanishes otherwise.

    Raises InvalidArgument when something else than a file is there, and OSError.
    """
    if path.exists() and not path.is_file():
        raise InvalidArgument(f"{path} exists and is not a file.")
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
