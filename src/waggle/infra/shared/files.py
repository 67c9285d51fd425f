# SPDX-License-Identifier: Apache-2.0
"""File primitives: atomic write and removal, and a lock between processes.

Imports only `waggle.domain.errors` and
the standard library; knows nothing of images, ports or environments.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Generator
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
