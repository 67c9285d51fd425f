# SPDX-License-Identifier: Apache-2.0
"""Whether a machine may be frozen now: few at once, and none for which there is no memory.

Used by `Freezer` and `Templates`, which share one. Knows no machine. A machine's memory is copied
to files in memory: as much as it has, from this host and outside of the machine's own limit. That
is all with every hypervisor: a file that is copied once more, without what of it is empty, is freed
meanwhile (`infra.shared.sparse`). Without a look before, the kernel would kill a machine, or the
server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final
from weakref import WeakValueDictionary

from waggle.domain.host import NoMemory
from waggle.domain.machine import Resources
from waggle.infra.host.memory import Memory, read_memory

FREEZING: Final = 2
"""Machines that are frozen at once. The others run on until it is their turn."""
MARGIN_MIB: Final = 128
"""What must be left besides."""
PATIENCE: Final = 60.0
"""Seconds for which a machine whose turn it is waits for the memory that another one's took."""


class Turns:
    """The turns of all machines of a server. `read` returns the memory that is there now."""

    def __init__(
        self, read: Callable[[], Memory] = read_memory, patience: float = PATIENCE
    ) -> None:
        self._read = read
        self._patience = patience
        self._turns = asyncio.Semaphore(FREEZING)
        self._own = WeakValueDictionary[str, asyncio.Lock]()
        """By owner; gone once nobody waits for it or has it."""
        self._next = asyncio.Lock()
        """Of the one that waits for memory: no other is served before it."""
        self._released = asyncio.Event()
        self._promised = 0

    def require(self, size: Resources) -> None:
        """Raise NoMemory if a machine of this size could not be frozen now.

        Those that are being frozen count in full: how much they have taken already is not known.
        """
        if (shortage := self._shortage(size)) is not None:
            raise shortage

    def _shortage(self, size: Resources) -> NoMemory | None:
        need = size.memory_mib + MARGIN_MIB + self._promised
        free = self._read().available >> 20
        if free >= need:
            return None
        return NoMemory(
            f"The server has too little memory to freeze this machine: it takes {need} MiB for "
            f"a short time, and {free} MiB are available."
        )

    @contextlib.asynccontextmanager
    async def turn(self, size: Resources, owner: str | None) -> AsyncGenerator[None]:
        """Wait for the turn of a machine, and hold it for the block. Raises as `require` does.

        An owner has one turn at most: a VMM that was taken over can delay only its owner's others.
        That is final only without others: what they take is released in seconds, most often.
        """
        own = asyncio.Lock() if owner is None else self._own.setdefault(owner, asyncio.Lock())
        async with own, self._turns:
            async with self._next:
                await self._wait_for_others(size)
                self.require(size)
                self._promised += size.memory_mib
            try:
                yield
            finally:
                self._promised -= size.memory_mib
                self._released.set()

    async def _wait_for_others(self, size: Resources) -> None:
        """Wait until there is memory, nobody else's turn takes any, or patience is at its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while self._promised and self._shortage(size):
                    self._released.clear()
                    await self._released.wait()
