# SPDX-License-Identifier: Apache-2.0
"""Copies of sparse files: disks and memory, which are mostly holes.

One of the modules under `waggle.infra` that its siblings may share.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

_FICLONE = 0x40049409
_CHUNK, _PIECE = 1 << 20, 16 << 10
_ZEROS = bytes(_CHUNK)


def clone(source: Path, target: Path) -> None:
    """Copy a sparse file: by reference where the file system can, else only its data."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb") as origin, os.fdopen(os.open(target, flags, 0o600), "wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, origin.fileno())
        except OSError:
            copy_data(origin.fileno(), copy.fileno())


def copy_data(source: int, target: int) -> None:
    """Copy what is neither a hole nor zero, and have holes there; see lseek(2). Raises OSError.

    `target` is empty. A file in memory that was read everywhere has no holes of its own any more.
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    end = 0
    while True:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind this offset
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            data = os.pread(source, min(end - start, _CHUNK), start)
            for at, size in _written(data):
                _write(target, memoryview(data)[at : at + size], start + at)
            start += len(data)


def _written(data: bytes) -> Generator[tuple[int, int]]:
    """The runs of a chunk that are not zero, in whole pieces: offset and length."""
    if data == _ZEROS[: len(data)]:
        return
    begin = None
    for at in range(0, len(data), _PIECE):
        is_zero = data.startswith(_ZEROS[: min(_PIECE, len(data) - at)], at)
        if is_zero and begin is not None:
            yield begin, at - begin
            begin = None
        elif not is_zero and begin is None:
            begin = at
    if begin is not None:
        yield begin, len(data) - begin


def _write(target: int, data: memoryview, at: int) -> None:
    while data:
        size = os.pwrite(target, data, at)
        data, at = data[size:], at + size
