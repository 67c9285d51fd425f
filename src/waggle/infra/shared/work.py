# SPDX-License-Identifier: Apache-2.0
"""Private work directories, from which a finished file or directory gets its name in one step.

Used wherever files outlive the process that writes them. `workspace` makes the directory, `place`
moves the result out of it, and `sweep` removes what killed processes left. All three may run
concurrently, in any number of threads and processes: a lock inside a workspace, which the kernel
releases with its process, marks it as held. A workspace is made under one name, locked and renamed,
and renamed again before its removal, so a sweep never meets an unlocked or half-removed one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from waggle.infra.shared.files import GONE, FileLock, remove_directory, sync

PREFIX = ".tmp-"
_NEW = f"{PREFIX}new-"
_LOCK = ".lock"
_TRIES = 10


@contextlib.contextmanager
def workspace(parent: Path, mode: int = 0o755) -> Generator[Path]:
    """Make a directory below `parent` for the block; make `parent` with `mode` if necessary.

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
        with contextlib.suppress(FileNotFoundError):  # a sweep removed it before it was locked
            if lock.try_acquire():
                new.rename(path)
                return path, lock
        lock.release()
    raise OSError(f"no workspace can be made below {parent}")


def place(made: Path, target: Path) -> None:
    """Give a finished file or directory its final name; the result survives a power cut.

    A file replaces another. A directory may hold only files, and its name must be free. `target`
    must be on the same file system. Blocks. Raises OSError.
    """
    for path in made.iterdir() if made.is_dir() else (made,):
        sync(path, os.O_NOFOLLOW)
    made.rename(target)
    sync(target.parent)


def sweep(parent: Path) -> None:
    """Remove the workspaces below `parent` that no process holds. Idempotent; does not raise."""
    for path in parent.glob(f"{PREFIX}*/"):
        if path.is_symlink():
            continue
        if path.name.startswith(GONE):
            shutil.rmtree(path, ignore_errors=True)
            continue
        if path.name.startswith(_NEW):
            remove_directory(path)  # renames it first: its maker may be about to do so
            continue
        lock = FileLock(path / _LOCK)
        with contextlib.suppress(OSError):
            if lock.try_acquire():
                remove_directory(path)
        lock.release()
