# SPDX-License-Identifier: Apache-2.0
"""File primitives: atomic write and removal, a lock between processes, copies of sparse files.

Sparse files are disks and memory, which are mostly holes. Imports only `waggle.domain.errors` and
the standard library; knows nothing of images, ports or environments.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO, Self

from waggle.domain.errors import TimedOut

_POLL_FIRST = 0.005
_POLL_LONGEST = 0.2
_OWNER_BYTES = 64


@contextlib.contextmanager
def appearing(path: Path, mode: int | None = None) -> Generator[BinaryIO]:
    """Give a new file that gets the name `path` on success, and is removed otherwise.

    The permission bits are exactly `mode`, or, without one, those that the umask leaves. A crash
    leaves at most a hidden `.<name>.<random>.tmp` beside it. The directory must exist. A symlink at
    `path` is replaced, not followed. Raises OSError.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o666 if mode is None else 0o600), "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def atomic_write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` so that readers see the old file or the whole new one.

    Idempotent; see `appearing`.
    """
    with appearing(path, mode) as file:
        file.write(data)


def sync(path: Path, flags: int = os.O_DIRECTORY) -> None:
    """Flush a directory (its renames then survive a power cut), or with other flags a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


GONE = ".tmp-gone-"


def remove_directory(path: Path) -> None:
    """Remove a directory so that readers, also after a crash, see all of it or nothing.

    Renames it first to a hidden name that begins with GONE; after a crash, the caller's next sweep
    removes that. Without room even for a name, the directory is deleted under its old one.
    Files that cannot be deleted stay. Idempotent; does not raise.
    """
    gone = path.with_name(f"{GONE}{path.name}-{secrets.token_hex(4)}")
    try:
        path.rename(gone)
    except FileNotFoundError:
        return
    except OSError:
        gone = path
    shutil.rmtree(gone, ignore_errors=True)


class FileLock:
    """An exclusive lock that the kernel releases when its holder dies.

    Use it as `async with FileLock(path, timeout=30):` or, outside a loop, `with FileLock(path):`.
    The file is never removed (that would let two holders in) and holds the pid of its holder,
    for messages. Not reentrant; one object holds the lock once. Two objects exclude each other
    also within one process. Cancelling a wait leaves nothing held.
    """

    def __init__(self, path: Path, *, timeout: float = 60.0) -> None:
        """`timeout` is in seconds; 0 tries once. The directory of `path` must exist."""
        self.path = path
        self.timeout = timeout
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now."""
        return self._descriptor is not None

    def owner(self) -> str:
        """Return the holder of the lock, as `process 123`, or `another process` if unknown."""
        try:
            text = self.path.read_bytes()[:_OWNER_BYTES].decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            text = ""
        return f"process {text}" if text.isdigit() else "another process"

    def try_acquire(self) -> bool:
        """Take the lock if it is free, without waiting; return whether this object holds it now.

        Raises OSError when the file cannot be opened, RuntimeError when this object has it already.
        """
        if self._descriptor is not None:
            raise RuntimeError(f"{self.path} is already locked by this object")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def acquire_sync(self) -> None:
        """Wait for the lock, blocking the thread. Raises TimedOut, which names the holder."""
        for pause in self._pauses():
            if self.try_acquire():
                return
            time.sleep(pause)
        self._last_try()

    async def acquire(self) -> None:
        """Wait for the lock without blocking the loop. Raises TimedOut, which names the holder."""
        for pause in self._pauses():
            if self.try_acquire():
                return
            await asyncio.sleep(pause)
        self._last_try()

    def _pauses(self) -> list[float]:
        """Return the pauses between tries; they grow, and add up to the timeout."""
        pauses: list[float] = []
        left, pause = self.timeout, _POLL_FIRST
        while left > 0:
            pauses.append(min(pause, left))
            left -= pause
            pause = min(pause * 2, _POLL_LONGEST)
        return pauses

    def _last_try(self) -> None:
        if not self.try_acquire():
            raise TimedOut(
                f"{self.path} is locked by {self.owner()} (waited {self.timeout:g} s).",
                hint="Wait until it is done, or stop that process.",
            )

    def __enter__(self) -> Self:
        self.acquire_sync()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


_FICLONE = 0x40049409
_CHUNK, _PIECE = 1 << 20, 16 << 10
_ZEROS = bytes(_CHUNK)


def clone(source: Path, target: Path) -> None:
    """Copy a sparse file: by reference where the file system can, otherwise only its data."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb") as origin, os.fdopen(os.open(target, flags, 0o600), "wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, origin.fileno())
        except OSError:
            copy_data(origin.fileno(), copy.fileno())


def _no_more(_start: int, _length: int) -> None:
    """Do nothing with a part that was copied."""


def copy_data(
    source: int,
    target: int,
    size: int | None = None,
    *,
    after: Callable[[int, int], None] = _no_more,
) -> None:
    """Copy data that is not zero and leave holes elsewhere; see lseek(2). Raises OSError.

    `target` must be empty. A file in memory that was read completely has no holes any more. Of a
    file that somebody else may change meanwhile, give the `size` that was checked: no more is
    copied, and the target has it, too. `after` is called with every part that was copied.
    """
    size = os.fstat(source).st_size if size is None else size
    os.ftruncate(target, size)
    _copy_range(source, target, 0, size, after)


def copy_changed(
    base: int,
    changes: int,
    target: int,
    size: int,
    *,
    after: Callable[[int, int], None] = _no_more,
) -> None:
    """Copy as `copy_data` does: of `changes` where that has data, of `base` elsewhere.

    `changes` is a file in memory, whose pages are data once they were written, also with zeros.
    `base` may be shorter. `after` is called with every part of `changes`.
    """
    os.ftruncate(target, size)
    length = min(os.fstat(base).st_size, size)
    at = 0
    while at < size:
        start = min(_next_data(changes, at, size), size)
        _copy_range(base, target, at, min(start, length), _no_more)
        at = _end_of_data(changes, start, size, mmap.PAGESIZE)
        _copy_range(changes, target, start, at, after)


def _copy_range(
    source: int, target: int, at: int, size: int, after: Callable[[int, int], None]
) -> None:
    """Copy what lies between offset `at` and `size`."""
    end = at
    while end < size:
        start = _next_data(source, end, size)
        end = _end_of_data(source, start, size, _PIECE)
        while start < end:
            data = os.pread(source, min(end - start, _CHUNK), start)
            if not data:  # somebody else may write to it
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            for begin, length in _written(data):
                write_at(target, memoryview(data)[begin : begin + length], start + begin)
            after(start, len(data))
            start += len(data)


def _next_data(source: int, at: int, size: int) -> int:
    """Return where there is data after an offset; `size` if there is none."""
    try:
        return os.lseek(source, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def _end_of_data(source: int, start: int, size: int, least: int) -> int:
    """Return where data ends, or `least` bytes after its start: it may be gone by now."""
    hole = os.lseek(source, start, os.SEEK_HOLE) if start < size else size
    return min(max(hole, start + least), size)


def _written(data: bytes) -> Generator[tuple[int, int]]:
    """Yield offset and length of the runs of a chunk that are not zero, in whole pieces."""
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


def write_at(target: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all data: a nearly full disk takes only a part at first. Raises OSError."""
    left = memoryview(data)
    while left:
        size = os.pwrite(target, left, offset)
        left, offset = left[size:], offset + size
