# SPDX-License-Identifier: Apache-2.0
"""Whether a machine may be frozen now: few at once, and none for which there is no memory.

Used by `Freezer` and `Templates`, which share one. Knows no machine: whoever wants to freeze one
waits for its turn while it runs on, so that nothing else waits, and touches it only then. A
machine's memory is copied to files in memory: as much as it has, from this host and outside of the
machine's own limit. That is all with every hypervisor: a file that is copied once more, without
what of it is empty, is freed meanwhile (`infra.shared.sparse`). Without a look before, the kernel
would kill a machine, or the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final
from weakref import WeakValueDictionary

from waggle.domain.host import NoMemory, NoTurn
from waggle.domain.machine import Resources
from waggle.infra.host.memory import Memory, read_memory

FREEZING: Final = 2
"""Machines that are frozen at once. The others run on until it is their turn."""
MARGIN_MIB: Final = 128
"""What must be left besides."""
PATIENCE: Final = 30.0
"""Seconds for which a machine waits for its turn at most, and for the memory that others took.

Less than most clients wait for the answer of a call.
"""


class Turn:
    """The turn of one machine; see `domain.host.Turn`."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave

    def copied(self) -> None:
        """Let the next one have its turn: the machine's memory is copied. Idempotent.

        The copy is there until the turn's block ends: others wait for its memory, as for what is
        promised.
        """
        self._leave()


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
        """MiB that are about to be taken: a look at the memory does not show them yet."""
        self._copies = 0
        """Those that are there for a while: a look shows what they take."""

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
    async def turn(self, size: Resources, owner: str | None) -> AsyncGenerator[Turn]:
        """Wait for the turn of a machine, and hold it until it is copied or the block ends.

        The block ends once the copy is closed. Raises as `require` does, or NoTurn if others have
        theirs for too long. Safe to cancel.

        An owner has one turn at most: a VMM that was taken over can delay only its owner's others.
        That is final only without others: what they take is released in seconds, most often.
        """
        with contextlib.ExitStack() as copy, contextlib.ExitStack() as place:
            await self._wait(place, size, owner)
            self._copies += 1
            copy.callback(self._copy_is_gone)
            self._promised += size.memory_mib
            place.callback(self._take_back, size.memory_mib)
            yield Turn(place.close)

    def _take_back(self, mib: int) -> None:
        self._promised -= mib

    def _copy_is_gone(self) -> None:
        self._copies -= 1
        self._released.set()

    async def _wait(self, place: contextlib.ExitStack, size: Resources, owner: str | None) -> None:
        """Wait for a place that `place` leaves, and for memory. Raises as `turn` does."""
        own = asyncio.Lock() if owner is None else self._own.setdefault(owner, asyncio.Lock())
        try:
            async with asyncio.timeout(self._patience):
                for lock in (own, self._turns):
                    await lock.acquire()
                    place.callback(lock.release)
                async with self._next:
                    while self._copies and self._shortage(size):
                        self._released.clear()
                        await self._released.wait()
        except TimeoutError:
            raise self._shortage(size) or NoTurn(
                "The server freezes other machines, and it was not this one's turn within "
                f"{self._patience:.0f} s. Nothing was disturbed."
            ) from None
        self.require(size)
