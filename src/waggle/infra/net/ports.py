# SPDX-License-Identifier: Apache-2.0
"""Leases of local TCP ports, with a lock per port among all waggle servers of this host.

Used for the ports of machines; knows nothing of the later listener. A port is leased only if this
allocator has not leased it, no other waggle server here holds its lock, and nothing listens on it.
That last check is a snapshot: if a stranger takes the port before the machine binds it, the machine
fails to start, and the caller releases the lease and creates again. Two servers with different data
directories share only the host, so the lock is an abstract Unix socket, which needs no file. A
hostile local user could hold these names, which costs ports, never correctness.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from waggle.domain.errors import NoPorts
from waggle.domain.machine import MAX_PORT


class PortLock(Protocol):
    """A lock that is held until `close` or until the process ends in any way."""

    def close(self) -> None:
        """Release the lock. Called once."""
        ...


LockPort = Callable[[int], PortLock | None]
"""Takes the lock of a port, or returns None if another process on this host holds it."""


def lock_port(port: int) -> PortLock | None:
    """Bind the abstract name of the port; None if it is bound. Raises OSError without sockets."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0waggle-port-{port}")
    except OSError as error:
        holder.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return holder


def is_locked(port: int) -> bool:
    """Tell whether a waggle server of this network namespace holds the lock. Raises OSError."""
    lock = lock_port(port)
    if lock is not None:
        lock.close()
    return lock is None


LOOPBACK = "127.0.0.1"


class PortLease:
    """The right to use `port` until `release` or until this process dies.

    Release it only after the listener there is dead.
    """

    def __init__(self, port: int, lock: PortLock, forget: Callable[[int], None]) -> None:
        self.port = port
        self._lock: PortLock | None = lock
        self._forget = forget

    def release(self) -> None:
        """Give the port back. Idempotent; never blocks."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
            self._forget(self.port)


class PortAllocator:
    """The allocator of ports from `base` up to, but not including, `maximum`.

    Walks the range round-robin, so that a port just released is the last to be leased again.
    """

    def __init__(
        self,
        base: int,
        maximum: int,
        *,
        lock: LockPort = lock_port,
        is_free: Callable[[int], bool] | None = None,
    ) -> None:
        """Keep the range. Raises ValueError if it is empty or not within 1..65535."""
        if not 0 < base < maximum <= MAX_PORT + 1:
            raise ValueError(f"no port range: {base} up to {maximum}, which is excluded")
        self._base = base
        self._size = maximum - base
        self._take_lock = lock
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
            undo.callback(lock.close)
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
        # Ignore connections in TIME_WAIT, as QEMU does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True
