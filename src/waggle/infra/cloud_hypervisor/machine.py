# SPDX-License-Identifier: Apache-2.0
"""A machine on Cloud Hypervisor: its calls, on the base that all VMMs with an API share.

`hypervisor` boots or resumes it. The guest's channels are those of vsock; the virtio console, a
pipe, is for the kernel's last words.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from pathlib import Path
from typing import Final

from waggle.domain.machine import GuestDisks, Written
from waggle.infra.cloud_hypervisor import configuration, frozen
from waggle.infra.cloud_hypervisor.configuration import SNAPSHOT
from waggle.infra.guest.frozen import FrozenFiles, held, let_go
from waggle.infra.vmm import cloud_hypervisor as api
from waggle.infra.vmm.endpoint import Endpoint
from waggle.infra.vmm.machine import ANSWER_SECONDS, API_SOCKET, VmmMachine, path
from waggle.infra.vmm.version import Vmm
from waggle.tasks import finish

_RESET: Final = "Error rebooting VM"
"""What Cloud Hypervisor says when it ends because it could not open its console again."""
_URL = f"file://{path(SNAPSHOT)}"


class CloudHypervisorMachine(VmmMachine):
    """A machine; see `vmm.machine.VmmMachine`."""

    vmm = Vmm.CLOUD_HYPERVISOR
    hears_kernel = True
    _memory: int | None = None
    """The file that is the memory of a machine that booted."""
    _kernel: io.FileIO | None = None
    _is_paused: bool | None = False
    """None after an order whose answer was lost: it may have been carried out, or not."""

    async def _begin(self) -> None:
        await self._process.until_listening(API_SOCKET)
        run, uid = self._process.run, self._spec.uid
        config = configuration.machine(
            self._spec.resources,
            self._program.version,
            self._io_mib,
            copy=self._origin is not None,
        )
        self._kernel = io.FileIO(frozen.make_console(run, uid))
        if self._origin is None:
            self._memory = frozen.make_memory(run, self._spec.resources.memory_mib, uid)
            await self._client.call(api.VM_CREATE, config)
            await self._client.call(api.VM_BOOT, seconds=self._spec.boot_timeout)
        else:
            text = config.model_dump_json(exclude_none=True).encode()
            await finish(asyncio.to_thread(frozen.put, run, text, self._origin.state, uid))
            restore = api.RestoreConfig(source_url=_URL)
            await self._client.call(api.VM_RESTORE, restore, seconds=self._spec.boot_timeout)
            frozen.discard(run)
            await self._client.call(api.VM_RESUME)
            self._lose_base()
        frozen.bar_console(run)
        await self._link.hear_pipe(self._kernel)

    async def _halt(self) -> None:
        if not await self._paused():
            await self._order(api.VM_PAUSE, paused=True)

    async def _run(self) -> None:
        if await self._paused():
            await self._order(api.VM_RESUME, paused=False)

    async def _order(self, order: Endpoint[None, None], *, paused: bool) -> None:
        self._is_paused = None
        await self._client.call(order)
        self._is_paused = paused

    async def _paused(self) -> bool:
        if self._is_paused is None:
            self._is_paused = (await self._client.call(api.VM_INFO)).state == "Paused"
        return self._is_paused

    async def freeze(
        self, disks: GuestDisks, into: Path | None = None, written: Written = None
    ) -> FrozenFiles:
        """See `domain.machine.Machine.freeze`.

        `stop` may come meanwhile and close what the machine has, so its files are held here.
        """
        renewal = self._require_renewal()
        copy = FrozenFiles(self._program.name)
        try:
            with self._using_run(), contextlib.ExitStack() as stack:
                run = held(self._process.run, stack)
                memory = None if self._memory is None else held(self._memory, stack)
                await self._rest()
                async with renewal.quiet(ANSWER_SECONDS):
                    await self.pause()
                    await self._snapshot(copy, run, memory)
            await finish(asyncio.to_thread(copy.seal))
        except BaseException:
            copy.close()
            raise
        return copy

    async def _snapshot(self, copy: FrozenFiles, run: int, memory: int | None) -> None:
        """Have Cloud Hypervisor write its state, of a copy also its memory, and take that."""
        await self._cut()
        await self._discard(run)
        directory = frozen.make_directory(run, self._spec.uid)
        try:
            cause = await self._unless_ended(self._write())
            if cause is not None:
                raise self._not_frozen(cause)
            mib = self._spec.resources.memory_mib
            await finish(asyncio.to_thread(frozen.take, directory, memory, mib, copy))
        finally:
            os.close(directory)
            await self._discard(run)

    async def _discard(self, run: int) -> None:
        await finish(asyncio.to_thread(frozen.discard, run))

    async def _write(self) -> None:
        wanted = api.VmSnapshotConfig(destination_url=_URL)
        await self._client.call(api.VM_SNAPSHOT, wanted, seconds=self._write_seconds)

    def _meaning(self, status: int) -> int:
        return 0 if any(_RESET in line for line in self.console_tail()) else status

    async def _release(self) -> None:
        await super()._release()
        if self._kernel is not None:
            self._kernel.close()
        if self._memory is not None:
            let_go(self._memory)
            self._memory = None
