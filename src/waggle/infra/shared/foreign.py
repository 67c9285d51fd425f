# SPDX-License-Identifier: Apache-2.0
"""The directory of a VMM, in which that may have created anything.

Used by the hypervisors whose VMMs make sockets. The VMM has ended, but nothing that it left is
trusted. Knows no names in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path


def remove_directory(path: Path) -> None:
    """Remove the directory, in which its VMM may have created anything.

    Follows no link. Moves an inner directory up before it empties it, so depth costs no
    descriptors or stack frames. Idempotent; raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        _empty(path)
        path.rmdir()


def _empty(path: Path) -> None:
    moved = secrets.token_hex(8)  # a name that no entry has
    with _opened(path) as top:
        waiting = _remove_files(top)
        count = 0
        while waiting:
            name = waiting.pop()
            with _opened(name, top) as inner:
                for child in _remove_files(inner):
                    count += 1
                    waiting.append(f"{moved}-{count}")
                    with _opened(child, inner):  # moving a directory needs write access to it
                        os.rename(child, waiting[-1], src_dir_fd=inner, dst_dir_fd=top)
            os.rmdir(name, dir_fd=top)


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Generator[int]:
    """Open a directory, even one whose mode forbids that to its owner."""
    with contextlib.ExitStack() as stack:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        found = os.open(path, flags, dir_fd=parent)
        stack.callback(os.close, found)
        itself = Path(f"/proc/self/fd/{found}")
        itself.chmod(0o700)
        directory = os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        yield directory


def _remove_files(directory: int) -> list[str]:
    """Remove everything except directories and return the names of those."""
    directories: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories
