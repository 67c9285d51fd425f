# SPDX-License-Identifier: Apache-2.0
"""Files in a VMM's /run: what is placed there for it, and what it has written.

The adapters' `frozen` use it. A VMM that its guest has taken over writes what it likes: nothing is
followed or waited for, and kinds and sizes are checked. All of it blocks, and raises OSError.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator

from waggle.domain.errors import BootFailed
from waggle.infra.shared.sparse import (
    BecameShorter,
    apply_changes,
    copy_changed,
    copy_data,
    write_at,
)

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOUND = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def make(directory: int, name: str, uid: int | None) -> int:
    """Make and return a new file, which belongs to the user of the VMM. The caller closes it."""
    return give(os.open(name, _NEW, 0o600, dir_fd=directory), uid)


def give(descriptor: int, uid: int | None) -> int:
    """Give an open file to the user of the VMM, and return it; it is closed if that fails."""
    try:
        if uid is not None:
            os.fchown(descriptor, uid, uid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def put(data: bytes | int, directory: int, name: str, uid: int | None) -> None:
    """Give the VMM a file with these data, or those of an open file."""
    target = make(directory, name, uid)
    try:
        if isinstance(data, int):
            copy_data(data, target)
        else:
            write_at(target, data, 0)
    finally:
        os.close(target)


def found(directory: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Open what the VMM may have put there, whatever it is. The caller closes it."""
    return os.open(name, _FOUND | flags, dir_fd=directory)


@contextlib.contextmanager
def opened(directory: int, name: str, flags: int = os.O_RDONLY) -> Generator[int]:
    """Do what `found` does, for the length of a block."""
    descriptor = found(directory, name, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take(directory: int, name: str, most: int, vmm: str) -> bytes:
    """Return the state of the devices that `vmm` has written, of at most so many bytes.

    Raises BootFailed for anything else.
    """
    with opened(directory, name) as state:
        about = os.fstat(state)
        if not stat.S_ISREG(about.st_mode) or not 0 < about.st_size <= most:
            raise BootFailed(f"{vmm} wrote no state of its devices.")
        return os.pread(state, about.st_size, 0)


def take_memory(
    memory: int, target: int, mib: int, vmm: str, *, move: bool, base: int | None = None
) -> None:
    """Copy a machine's memory, without what is empty. Raises BootFailed for another size.

    With `move`, it is freed meanwhile: both would take twice the room, which nobody has promised.
    With a `base`, it has only what has changed since that.
    """
    with _as_large(memory, mib, vmm) as size:
        if base is not None:
            copy_changed(base, memory, target, size, move=move)
        else:
            copy_data(memory, target, size, move=move)


def take_changes(memory: int, target: int, mib: int, vmm: str) -> list[tuple[int, int]]:
    """Move what has changed of a machine's memory into the file that has the rest of it.

    Returns the ranges that were written. Raises BootFailed for another size.
    """
    with _as_large(memory, mib, vmm) as size:
        return apply_changes(memory, target, size, move=True)


@contextlib.contextmanager
def _as_large(memory: int, mib: int, vmm: str) -> Generator[int]:
    """Return the size of a machine's memory. Raises BootFailed if its file has or gets another."""
    about = os.fstat(memory)
    another = BootFailed(f"{vmm} wrote a memory of another size.")
    if not stat.S_ISREG(about.st_mode) or about.st_size != mib << 20:
        raise another
    try:
        yield mib << 20
    except BecameShorter as error:
        raise another from error


def remove(directory: int, *names: str) -> None:
    """Remove files, if they are there. Does not raise."""
    for name in names:
        with contextlib.suppress(OSError):  # also a directory: it ends with the VMM
            os.unlink(name, dir_fd=directory)
