# SPDX-License-Identifier: Apache-2.0
"""The state of frozen machines on its way through a VMM's /run, which the VMM may have filled.

`machine` uses it. The files that Firecracker writes memory to are made here first, whole: so the
memory that they take is the server's, and not the machine's, whose limit they would exceed. A VMM
that its guest has taken over writes what it likes, so sizes and kinds are checked; what is in them
is only ever that guest's. Blocks; knows no API.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from waggle.domain.errors import BootFailed
from waggle.infra.firecracker.configuration import MEMORY, STATE
from waggle.infra.guest.frozen import FrozenFiles
from waggle.infra.shared.files import copy_data, write_at

MAX_STATE: Final = 16 << 20
"""Bytes; the devices of a machine take about 50 kB."""
_CHUNK = 1 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOUND = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def put_state(run: int, state: int, uid: int | None) -> None:
    """Give a VMM the state of its devices, as a file in its /run. Raises OSError."""
    target = _made(run, STATE, uid)
    try:
        copy_data(state, target)
    finally:
        os.close(target)


def make_memory(run: int, uid: int | None) -> int:
    """Make and return the file for a machine's memory, to be prepared.

    Raises OSError. The caller closes it, and calls `discard`.
    """
    return _made(run, MEMORY, uid)


def prepare(memory: int, mib: int, base: int | None) -> None:
    """Take the room for all memory, with what it was in `base`, if any.

    Raises OSError, also without room.
    """
    os.posix_fallocate(memory, 0, mib << 20)
    if base is not None:
        _copy_over(base, memory)


def take(run: int, memory: int, mib: int, copy: FrozenFiles) -> None:
    """Move what the VMM has written to `copy`, without empty memory. Raises BootFailed, OSError."""
    if os.fstat(memory).st_size != mib << 20:
        raise BootFailed("Firecracker wrote a memory of another size.")
    copy_data(memory, copy.ram, mib << 20)  # it may have another size by now
    state = os.open(STATE, _FOUND, dir_fd=run)
    try:
        about = os.fstat(state)
        if not stat.S_ISREG(about.st_mode) or not 0 < about.st_size <= MAX_STATE:
            raise BootFailed("Firecracker wrote no state of its devices.")
        copy_data(state, copy.state, about.st_size)
    finally:
        os.close(state)


def discard(run: int) -> None:
    """Remove what a snapshot leaves in /run. Idempotent; does not raise."""
    for name in (STATE, MEMORY):
        try:
            os.unlink(name, dir_fd=run)
        except OSError:  # none, or the VMM made a directory of it: it ends with the VMM
            continue


def _made(run: int, name: str, uid: int | None) -> int:
    descriptor = os.open(name, _NEW, 0o600, dir_fd=run)
    if uid is not None:
        os.fchown(descriptor, uid, uid)
    return descriptor


def _copy_over(source: int, target: int) -> None:
    """Copy data into a file that is there already; what has none in the source stays."""
    size, end = os.fstat(source).st_size, 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError:  # no data after this offset
            return
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            data = os.pread(source, min(end - start, _CHUNK), start)
            write_at(target, data, start)
            start += len(data)
