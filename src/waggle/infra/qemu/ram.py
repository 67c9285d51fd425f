# SPDX-License-Identifier: Apache-2.0
"""A machine's memory as a file in memory, which copies of a frozen machine map privately.

The file of a frozen machine is sealed: whoever has its descriptor, a QEMU that was taken over
included, can read it, but never again change it for the others (memfd_create(2), F_SEAL_WRITE).
Descriptors are the caller's to close.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from waggle.infra.sparse import copy_data

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def new_ram(mib: int) -> int:
    """Make the memory of a machine that is to be frozen. Raises OSError."""
    descriptor = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, mib << 20)
    return descriptor


def save_ram(descriptor: int, path: Path) -> None:
    """Write what is not a hole to a new sparse file and put it on the disk. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        copy_data(descriptor, file.fileno())
        os.fsync(file.fileno())


def load_ram(path: Path) -> int:
    """The memory in a file, sealed. Raises OSError."""
    descriptor = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with path.open("rb") as file:
            copy_data(file.fileno(), descriptor)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
