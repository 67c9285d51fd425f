# SPDX-License-Identifier: Apache-2.0
"""Leases of local TCP ports, with a lock per port among all waggle servers of this host.

Used for the ports of machines; knows nothing of the later listener. A port is leased only if
this allocator has not leased it, no other waggle server here holds its lock, and nothing listens on
it on 127.0.0.1. That last check is a snapshot: a stranger may take the port before the machine
binds it; the machine then fails to start, and the caller releases the lease and creates again.
Two servers with different data directories share only the host, so the lock is an abstract Unix
socket on Linux (same network namespace as the ports, no file), else an advisory lock on a file in a
shared directory; the kernel drops it when its process dies. A hostile local user could hold these
names, which costs ports, never correctness.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from waggle.domain.errors import NoPorts
from waggle.domain.machine import MAX_PORT


class PortLock(Protocol):
    """A lock that is held until `release` or until the process ends in any way."""

    def release(self) -> None:
        """Release the lock. Called once."""
        ...


LockPort = Callable[[int], PortLock | None]
"""Takes the lock of a port, or returns None if another process on this host holds it."""


class AbstractSocketLock:
    """The lock on Linux: the process that binds the abstract name `waggle-port-N` owns port N."""

    def __init__(self, holder: socket.socket) -> None:
        self._holder = holder

    @classmethod
    def take(cls, port: int) -> AbstractSocketLock | None:
        """Take the lock of `port`; None if it is held. Raises OSError if sockets run out."""
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
    """The lock elsewhere: an exclusive `flock` on a file, which is removed on release."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take_in(cls, directory: Path) -> LockPort:
        """Return a `LockPort` that keeps its files in `directory`."""

        def take(port: int) -> FileLock | None:
            return cls.take(directory / f"waggle-port-{port}.lock")

        return take

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """Take the lock on `path`; None if it is held or the file cannot be opened."""
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
            # The previous holder may have removed the file between open and flock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False)):
                    return cls(path, descriptor)
            os.close(descriptor)

    def release(self) -> None:
        """Remove the file while the lock is still held, then release it."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)


def machine_lock() -> LockPort:
    """Return the kind of lock that fits this operating system."""
    if sys.platform == "linux":
        return AbstractSocketLock.take
    return FileLock.take_in(Path(tempfile.gettempdir()))


LOOPBACK = "127.0.0.1"


class PortLease:
    """The right to use `port` until `release` or until this process dies.

    Also a context manager that releases it. Release it only after the listener there is dead.
    """

    def __init__(self, port: int, lock: PortLock, forget: Callable[[int], None]) -> None:
        self.port = port
        self._lock: PortLock | None = lock
        self._forget = forget

    def release(self) -> None:
        """Give the port back. Idempotent; never blocks."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
            self._forget(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"PortLease({self.port}, {'released' if self._lock is None else 'held'})"


class PortAllocator:
    """The allocator of ports from `base` up to, but not including, `maximum`.

    Walks the range round-robin, so that a port just released is the last to be leased again.
    """

    def __init__(
        self,
        base: int,
        maximum: int,
        *,
        lock: LockPort | None = None,
        is_free: Callable[[int], bool] | None = None,
    ) -> None:
        """Keep the range. Raises ValueError if it is empty or not within 1..65535."""
        if not 0 < base < maximum <= MAX_PORT + 1:
            raise ValueError(f"no port range: {base} up to {maximum}, which is excluded")
        self._base = base
        self._size = maximum - base
        self._take_lock = machine_lock() if lock is None else lock
        self._is_free = nothing_listens if is_free is None else is_free
        self._guard = threading.Lock()
        self._leased: set[int] = set()
        self._next = 0

    def lease(self) -> PortLease:
        """Lease an unused port. Raises NoPorts if there is none.

        Takes microseconds per port checked and never waits, so it may run on the event loop.
        The caller releases the lease.
        """
        with self._guard:
            for step in range(self._size):
                offset = (self._next + step) % self._size
                lease = self._try(self._base + offset)
                if lease is not None:
                    self._next = (offset + 1) % self._size
                    return lease
        last = self._base + self._size - 1
        raise NoPorts(f"All {self._size} ports from {self._base} to {last} are taken.")

    def _try(self, port: int) -> PortLease | None:
        if port in self._leased:
            return None
        lock = self._take_lock(port)
        if lock is None:
            return None
        with contextlib.ExitStack() as undo:
            undo.callback(lock.release)
            if not self._is_free(port):
                return None
            undo.pop_all()
        self._leased.add(port)
        return PortLease(port, lock, self._leased.discard)

    @property
    def leased(self) -> frozenset[int]:
        """The ports that this allocator has leased now."""
        with self._guard:
            return frozenset(self._leased)


def nothing_listens(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform == "linux":
            # Ignore connections in TIME_WAIT, as QEMU does. Elsewhere this option would also
            # ignore a listener on the wildcard address.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True
