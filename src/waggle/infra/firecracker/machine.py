# SPDX-License-Identifier: Apache-2.0
"""A machine on Firecracker: its calls, on the base that all VMMs with an API share.

`hypervisor` boots or resumes it.
"""

from __future__ import annotations

import asyncio
import contextlib

from waggle.domain.machine import GuestDisks
from waggle.infra.firecracker import configuration, frozen
from waggle.infra.firecracker.configuration import Call
from waggle.infra.guest.frozen import FrozenFiles, held, let_go
from waggle.infra.vmm import firecracker as api
from waggle.infra.vmm.machine import ANSWER_SECONDS, VmmMachine
from waggle.infra.vmm.version import Vmm
from waggle.tasks import finish


class FirecrackerMachine(VmmMachine):
    """A machine; see `vmm.machine.VmmMachine`."""

    vmm = Vmm.FIRECRACKER

    async def _begin(self) -> None:
        if self._origin is None:
            calls = configuration.boot_calls(
                self._spec.resources, self._program.version, self._io_mib
            )
            for call in calls:
                await self._call(call)
            return
        run = self._process.run
        put = asyncio.to_thread(frozen.put_state, run, self._origin.state, self._spec.uid)
        await finish(put)
        await self._call(configuration.load_call(self._program.version))
        frozen.discard(run)
        await self._call(configuration.limit_call(self._io_mib))

    async def _call(self, call: Call, seconds: float = ANSWER_SECONDS) -> None:
        endpoint, request = call
        await self._client.call(endpoint, request, seconds=seconds)

    async def _halt(self) -> None:
        await self._client.call(api.PATCH_VM, api.Vm(state="Paused"))

    async def _run(self) -> None:
        await self._client.call(api.PATCH_VM, api.Vm(state="Resumed"))

    async def freeze(self, disks: GuestDisks) -> FrozenFiles:
        """See `domain.machine.Machine.freeze`.

        It is paused only once its memory has a place, unless it is a copy.

        `stop` may come meanwhile and close what the machine has, so its files are held here.
        """
        renewal = self._require_renewal()
        copy = FrozenFiles(self._program.name)
        try:
            with self._using_run(), contextlib.ExitStack() as stack:
                run = held(self._process.run, stack)
                base = None if self._origin is None else held(self._origin.ram, stack)
                await self._rest()
                async with renewal.quiet(ANSWER_SECONDS):
                    await self._freeze(copy, run, base)
            await finish(asyncio.to_thread(copy.seal))
        except BaseException:
            copy.close()
            raise
        return copy

    async def _freeze(self, copy: FrozenFiles, run: int, base: int | None) -> None:
        await self._discard(run)
        memory, changes, rest = frozen.make_memory(run, self._spec.uid), base is not None, base
        try:
            await finish(asyncio.to_thread(frozen.prepare, memory, self._mib, changes=changes))
            await self.pause()
            if base is not None:
                filling = (memory, self._mib, base, self.identity.pid)
                if await finish(asyncio.to_thread(frozen.fill, *filling)):
                    rest = None
            await self._snapshot(copy, run, memory, rest, changes=changes)
        finally:
            let_go(memory)
            await self._discard(run)

    async def _discard(self, run: int) -> None:
        await finish(asyncio.to_thread(frozen.discard, run))

    async def _snapshot(
        self, copy: FrozenFiles, run: int, memory: int, rest: int | None, *, changes: bool
    ) -> None:
        """Have Firecracker write its state, or only what it changed, and take that.

        `rest` has what its file does not. The next time it writes everything: what changes now
        changes what was taken, and no limit counts that memory if it is kept. After an error nobody
        knows which changes it counts.
        """
        await self._cut()
        try:
            call = configuration.freeze_call(changes=changes)
            cause = await self._unless_ended(self._call(call, self._write_seconds))
            if cause is not None:
                raise self._not_frozen(cause)
            await finish(asyncio.to_thread(frozen.take, run, memory, self._mib, rest, copy))
        finally:
            self._lose_base()

    @property
    def _mib(self) -> int:
        return self._spec.resources.memory_mib
