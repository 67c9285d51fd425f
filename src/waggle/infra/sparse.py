# SPDX-License-Identifier: Apache-2.0
"""Copies of sparse files: disks and memory, which are mostly holes.

One of the modules under `waggle.infra` that its siblings may share.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409


def clone(source: Path, target: Path) -> None:
    """Copy a sparse file: by reference where the file system can, else only its data."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb") as origin, os.fdopen(os.open(target, flags, 0o600), "wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, origin.fileno())
        except OSError:
            copy_data(origin.fileno(), copy.fileno())


def copy_data(source: int, target: int) -> None:
    """Copy what is not a hole between descriptors; see lseek(2), SEEK_DATA. Raises OSError."""
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
            data = os.pread(source, min(end - start, 1 << 20), start)
            start += os.pwrite(target, data, start)
