# SPDX-License-Identifier: Apache-2.0
"""Files and trees from an environment, written on this host. The guest chose their names.

So nothing is written outside of the destination. `waggle.infra.archive.trees` has already checked
the names. A link out of the tree is not made: a user who opens it later would open a file of this
host that the guest chose. No link below the destination is followed, so a tree cannot be written
through a link that an earlier one left. A file appears under its name whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from waggle.cli.cp.sources import CopyFailed
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import Skipped, TreeEntry, check_link

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Written:
    """Counts of what was written. `size` is the bytes of all files."""

    files: int = 0
    directories: int = 0
    links: int = 0
    size: int = 0


def write_file(target: Path, entry: TreeEntry) -> Written:
    """Write one file as `target`, replacing a file or link of that name.

    Raises CopyFailed, with the reason, when it cannot be written.
    """
    with _write_errors(target), _opened(target.parent) as directory:
        _place_file(directory, os.fsencode(target.name), entry)
    return Written(files=1, size=len(entry.data))


def write_tree(target: Path, entries: Iterable[TreeEntry]) -> tuple[Written, list[Skipped]]:
    """Write a tree below `target`, and make that directory if it does not exist.

    Returns counts of what was written, and the entries that were not. `target` itself may be a link
    to a directory, since the user named it. Raises CopyFailed when it cannot be made or opened.
    """
    done, failed = Written(), list[Skipped]()
    with _write_errors(target):
        target.mkdir(exist_ok=True)
    with _write_errors(target), _opened(target) as root:
        for entry in entries:
            try:
                _place(root, entry, done)
            except OSError as error:
                failed.append(Skipped(entry.name, error.strerror or "it cannot be written"))
            except ValueError as error:
                failed.append(Skipped(entry.name, str(error)))
    return done, failed


def _place(root: int, entry: TreeEntry, done: Written) -> None:
    *parents, name = entry.name.split(b"/")
    with _descended(root, parents) as directory:
        match entry.kind:
            case Kind.DIRECTORY:
                _make_directory(directory, name, entry.mode)
                done.directories += 1
            case Kind.LINK:
                check_link(entry.name, entry.data)
                with _beside(directory, name) as new:
                    os.symlink(entry.data, new, dir_fd=directory)
                done.links += 1
            case _:
                _place_file(directory, name, entry)
                done.files += 1
                done.size += len(entry.data)


def _make_directory(directory: int, name: bytes, mode: int) -> None:
    """Make a directory that its owner can write to. An existing one stays unchanged."""
    try:
        os.mkdir(name, (mode & 0o777) | 0o700, dir_fd=directory)
    except FileExistsError:
        os.close(os.open(name, _DIRECTORY, dir_fd=directory))


def _place_file(directory: int, name: bytes, entry: TreeEntry) -> None:
    with _beside(directory, name) as new:
        opened = os.open(new, _NEW, entry.mode & 0o777, dir_fd=directory)
        with os.fdopen(opened, "wb") as file:
            file.write(entry.data)


@contextmanager
def _beside(directory: int, name: bytes) -> Generator[bytes]:
    """Yield a new name to write to, and rename that to `name` when the block succeeds.

    Otherwise remove it.
    """
    new = b".waggle-" + secrets.token_hex(8).encode()
    try:
        yield new
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        raise


@contextmanager
def _descended(root: int, parents: Iterable[bytes]) -> Generator[int]:
    """Open a directory below `root`, making missing ones. Raises OSError for links on the way."""
    directory = os.dup(root)
    try:
        for name in parents:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o777, dir_fd=directory)
            deeper = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = deeper
        yield directory
    finally:
        os.close(directory)


@contextmanager
def _opened(directory: Path) -> Generator[int]:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _write_errors(target: Path) -> Generator[None]:
    """Raise CopyFailed for an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise CopyFailed(f"{target} cannot be written: {error.strerror}.") from error
