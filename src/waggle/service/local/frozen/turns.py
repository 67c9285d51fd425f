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
        self._released = asyncio.Event()
        """Wakes all that wait for memory: whoever fits takes it."""
        self._promised = 0
        """MiB that are about to be taken: a look at the memory does not show them yet."""
        self._copies = 0
        """Those that are there for a while, or are promised memory for one."""

    def require(self, size: Resources) -> None:
        """Raise NoMemory if a machine of this size could not be frozen now.

        Those that are being frozen count in full: how much they have taken already is not known.
        """
        if (shortage := self._shortage(size.memory_mib)) is not None:
            raise shortage

    def _shortage(self, mib: int) -> NoMemory | None:
        need = mib + MARGIN_MIB + self._promised
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
        NoMemory comes at once only if there are no others: what they take is released in seconds,
        most often.
        """
        with contextlib.ExitStack() as copy, contextlib.ExitStack() as place:
            await self._wait(copy, place, size.memory_mib, owner)
            yield Turn(place.close)

    async def _wait(
        self, copy: contextlib.ExitStack, place: contextlib.ExitStack, mib: int, owner: str | None
    ) -> None:
        """Wait for memory, which `copy` releases, then for a place. Raises as `turn` does.

        Whoever has a place can use it: one that waits for memory keeps none from smaller ones.
        """
        deadline = asyncio.get_running_loop().time() + self._patience
        if owner is not None:
            own = self._own.setdefault(owner, asyncio.Lock())
            await self._acquire(own, deadline)
            place.callback(own.release)
        while True:
            await self._wait_for_memory(mib, deadline)
            with contextlib.ExitStack() as its_copy, contextlib.ExitStack() as its_place:
                self._promise(its_copy, its_place, mib)
                waited = self._turns.locked()
                await self._acquire(self._turns, deadline)
                its_place.callback(self._turns.release)
                if not waited or self._shortage(0) is None:  # else it was taken meanwhile
                    place.callback(its_place.pop_all().close)
                    copy.callback(its_copy.pop_all().close)
                    return

    async def _wait_for_memory(self, mib: int, deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while (shortage := self._shortage(mib)) is not None:
                    if not self._copies:
                        raise shortage
                    self._released.clear()
                    await self._released.wait()
                return
        if (shortage := self._shortage(mib)) is not None:
            raise shortage

    async def _acquire(self, lock: asyncio.Lock | asyncio.Semaphore, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise NoTurn(
                "The server freezes other machines, and it was not this one's turn within "
                f"{self._patience:.0f} s. Nothing was disturbed."
            ) from None

    def _promise(self, copy: contextlib.ExitStack, place: contextlib.ExitStack, mib: int) -> None:
        self._copies += 1
        copy.callback(self._copy_is_gone)
        self._promised += mib
        place.callback(self._take_back, mib)

    def _take_back(self, mib: int) -> None:
        self._promised -= mib
        self._released.set()

    def _copy_is_gone(self) -> None:
        self._copies -= 1
        self._released.set()
