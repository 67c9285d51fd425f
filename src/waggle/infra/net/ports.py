# SPDX-License-Identifier: Apache-2.0
"""Local TCP ports for environments: one lease per port, one holder per machine.

Called by the environment host when it creates a machine; calls `port_locks`. Knows nothing of
what will listen on the port.

A port is leased only if no lease of this allocator has it, no other waggle server on this
machine has it, and nothing listens on it on 127.0.0.1. The last check is a snapshot: a stranger
may take the port before the machine binds it, and the machine then fails to start; the caller
releases and creates again.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from waggle.domain.errors import NoPorts
from waggle.infra.net.port_locks import LockPort, PortLock, machine_lock

LOOPBACK = "127.0.0.1"
MAX_PORT = 65535


class PortLease:
    """The right to use `port` until `release` or until this process dies.

    Also a context manager that releases. Release it only when what listened there is dead.
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
    """Hands out ports from `base` up to, but not including, `maximum`.

    Walks the range round-robin, so that a port just released is the last to be handed out again.
    """

    def __init__(
        self,
        base: int,
        maximum: int,
        *,
        lock: LockPort | None = None,
        is_free: Callable[[int], bool] | None = None,
    ) -> None:
        """Take the range only. Raises ValueError for one that is empty or out of 1..65535."""
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
        """A port that nobody else has. Raises NoPorts when there is none.

        Takes microseconds per port looked at and never waits, so it may run on the event loop.
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
        """The ports now out on lease by this allocator."""
        with self._guard:
            return frozenset(self._leased)


def nothing_listens(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform == "linux":
            # Look past connections in TIME_WAIT, as QEMU does. Elsewhere this option would also
            # look past a listener on the wildcard address.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True
