# SPDX-License-Identifier: Apache-2.0
"""Make something in a private directory, then give it its name: whole, or not there at all.

Used wherever files outlive the process that writes them. `workspace` gives the directory, `place`
moves what is finished out of it, and `sweep` removes what killed processes left. All three may run
at the same time, in any number of threads and processes: a workspace is held by a lock in it, which
the kernel releases with its process.

A workspace is made under one name, locked, and renamed; it is renamed once more before it is
removed. So a sweep never meets one that is not locked yet or not whole any more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from waggle.infra.shared.files import GONE, FileLock, remove_directory, sync_directory

PREFIX = ".tmp-"
_NEW = f"{PREFIX}new-"
_LOCK = ".lock"
_TRIES = 10


@contextlib.contextmanager
def workspace(parent: Path, mode: int = 0o755) -> Generator[Path]:
    """A new directory below `parent`, which is made with `mode` if need be; gone with the block.

    Only the owner may enter it. Raises OSError.
    """
    parent.mkdir(mode=mode, parents=True, exist_ok=True)
    path, lock = _held(parent)
    try:
        yield path
    finally:
        remove_directory(path)
        lock.release()


def _held(parent: Path) -> tuple[Path, FileLock]:
    for _ in range(_TRIES):
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=parent))
        path = parent / f"{PREFIX}{new.name.removeprefix(_NEW)}"
        lock = FileLock(new / _LOCK)
        with contextlib.suppress(FileNotFoundError):  # a sweep took it for a dead process's
            if lock.try_acquire():
                new.rename(path)
                return path, lock
        lock.release()
    raise OSError(f"no workspace can be made below {parent}")


def place(made: Path, target: Path) -> None:
    """Give a finished file or directory its name, for good: it survives a power cut.

    A file replaces another. A directory, of files only, needs the name to be free. `target` is on
    the same file system. Blocks. Raises OSError.
    """
    for path in made.iterdir() if made.is_dir() else (made,):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    made.rename(target)
    sync_directory(target.parent)


def sweep(parent: Path) -> None:
    """Remove the workspaces below `parent` that nobody holds. Idempotent; does not raise."""
    for path in parent.glob(f"{PREFIX}*/"):
        if path.is_symlink():
            continue
        if path.name.startswith(GONE):
            shutil.rmtree(path, ignore_errors=True)
            continue
        if path.name.startswith(_NEW):
            remove_directory(path)  # by another name: its maker may be about to rename it
            continue
        lock = FileLock(path / _LOCK)
        with contextlib.suppress(OSError):
            if lock.try_acquire():
                remove_directory(path)
        lock.release()
