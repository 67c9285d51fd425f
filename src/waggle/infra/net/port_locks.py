# SPDX-License-Identifier: Apache-2.0
"""Machine-wide, per-port locks that the kernel drops when their process dies.

Used by `ports`. Two waggle servers with different data directories share nothing but the
machine, so the lock lives where both see it: an abstract Unix socket on Linux (same network
namespace as the ports themselves, no file), else an advisory lock on a file in a shared
directory. Knows nothing of leases or of whether a port is really free.

A hostile local user could hold these names; that costs ports, never correctness.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class PortLock(Protocol):
    """A lock that is held. Held until `release`, or until the process ends in any way."""

    def release(self) -> None:
        """Let go. Called once."""
        ...


LockPort = Callable[[int], PortLock | None]
"""Takes the lock of a port, or answers None when somebody else on this machine holds it."""


class AbstractSocketLock:
    """Linux: whoever binds the abstract name `waggle-port-N` owns port N."""

    def __init__(self, holder: socket.socket) -> None:
        self._holder = holder

    @classmethod
    def take(cls, port: int) -> AbstractSocketLock | None:
        """The lock of `port`, or None when it is held. Raises OSError if sockets run out."""
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0waggle-port-{port}")
        except OSError as error:
            holder.close()
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        return cls(holder)

    def release(self) -> None:
        """Close the socket; the kernel forgets the name at once."""
        self._holder.close()


class FileLock:
    """Elsewhere: an exclusive `flock` on a file. The file is removed on release."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take_in(cls, directory: Path) -> LockPort:
        """A `LockPort` that keeps its files in `directory`."""

        def take(port: int) -> FileLock | None:
            return cls.take(directory / f"waggle-port-{port}.lock")

        return take

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """The lock on `path`, or None when it is held or the file is somebody else's."""
        while True:
            # Read-only is enough for flock, and works on a file that another user made.
            flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                descriptor = os.open(path, flags, 0o644)
            except (PermissionError, FileExistsError, IsADirectoryError):
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:  # a symbolic link planted in a shared directory
                    return None
                raise
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            # The previous holder may have removed the file between our open and our lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False)):
                    return cls(path, descriptor)
            os.close(descriptor)

    def release(self) -> None:
        """Remove the file while the lock is still ours, then let go."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)


def machine_lock() -> LockPort:
    """The kind of lock that fits this operating system."""
    if sys.platform == "linux":
        return AbstractSocketLock.take
    return FileLock.take_in(Path(tempfile.gettempdir()))
