# SPDX-License-Identifier: Apache-2.0
"""A machine on Firecracker: its calls, on the base that all VMMs with an API share.

`hypervisor` boots or resumes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from waggle.domain.machine import GuestDisks, Written
from waggle.infra.firecracker import configuration, frozen
from waggle.infra.firecracker.configuration import Call
from waggle.infra.guest.frozen import FrozenFiles, held, let_go
from waggle.infra.shared.sparse import copy_over
from waggle.infra.vmm import firecracker as api
from waggle.infra.vmm.machine import ANSWER_SECONDS, API_SOCKET, VmmMachine
from waggle.infra.vmm.version import Vmm
from waggle.tasks import finish

_BASE: Final = "the memory file of the frozen machine that it is a copy of"


class FirecrackerMachine(VmmMachine):
    """A machine; see `vmm.machine.VmmMachine`."""

    vmm = Vmm.FIRECRACKER

    async def _begin(self) -> None:
        """Load a copy. A machine that boots has begun: Firecracker read what it is."""
        if self._origin is None:
            return
        await self._process.until_listening(API_SOCKET)
        run = self._process.run
        put = asyncio.to_thread(frozen.put_state, run, self._origin.state, self._spec.uid)
        await finish(put)
        await self._call(configuration.load_call(self._program.version))
        frozen.discard(run)
        await self._call(configuration.limit_call(self._io_mib))

    async def _call(self, call: Call, seconds: float = ANSWER_SECONDS) -> None:
        endpoint, request = call
        await self._client.call(endpoint, request, seconds=seconds)

    def _complaint(self, status: int) -> str | None:
        said = super()._complaint(status)
        may_refuse = status > 0 and not self._was_reached  # later only its guest would say so
        return said or (configuration.refusal(self.console_tail()) if may_refuse else None)

    async def _halt(self) -> None:
        await self._client.call(api.PATCH_VM, api.Vm(state="Paused"))

    async def _run(self) -> None:
        await self._client.call(api.PATCH_VM, api.Vm(state="Resumed"))

    async def freeze(
        self, disks: GuestDisks, into: Path | None = None, written: Written = None
    ) -> FrozenFiles:
        """See `domain.machine.Machine.freeze`.

        `stop` may come meanwhile and close what the machine has, so its files are held here.
        """
        renewal = self._require_renewal()
        with contextlib.ExitStack() as stack:
            with self._using_run():
                run = held(self._process.run, stack)
                base = None if self._origin is None else held(self._origin.ram, stack)
            await self._rest()
            async with renewal.quiet(ANSWER_SECONDS):
                return await self._freeze(run, base, into, written)

    async def _freeze(
        self, run: int, base: int | None, into: Path | None, written: Written
    ) -> FrozenFiles:
        with self._using_run():
            await self._discard(run)
            memory = frozen.make_memory(run, self._spec.uid)
        try:
            with self._using_run():
                rest = await self._write(memory, base)
                state = await finish(asyncio.to_thread(frozen.state_in, run))
            if written is not None:
                written()
            taken = (state, memory, self._mib, rest, self._program.name, into)
            return await finish(asyncio.to_thread(frozen.take, *taken))
        finally:
            let_go(memory)
            await self._discard(run)

    async def _discard(self, run: int) -> None:
        await finish(asyncio.to_thread(frozen.discard, run))

    async def _write(self, memory: int, base: int | None) -> int | None:
        """Have Firecracker write its state, or only what it changed; return what has the rest.

        It is paused only once its memory has a place, unless it is a copy. The next time it writes
        everything: what changes now changes what was taken, and no limit counts that memory if it
        is kept. After an error nobody knows which changes it counts.
        """
        changes = base is not None
        await finish(asyncio.to_thread(frozen.prepare, memory, self._mib, changes=changes))
        await self.pause()
        rest = base
        if base is not None:
            needed = (memory, self._mib, self.identity.pid)
            if await finish(asyncio.to_thread(frozen.take_room, *needed)):
                with self._using(_BASE):  # which is all that can fail now
                    await finish(asyncio.to_thread(copy_over, base, memory))
                rest = None
        await self._cut()
        try:
            call = configuration.freeze_call(changes=changes)
            cause = await self._unless_ended(self._call(call, self._write_seconds))
        finally:
            self._lose_base()
        if cause is not None:
            raise self._not_frozen(cause)
        return rest

    @property
    def _mib(self) -> int:
        return self._spec.resources.memory_mib
