# SPDX-License-Identifier: Apache-2.0
"""Freezes that are cancelled, or whose machine ends, while a thread works on their files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.infra.cloud_hypervisor import pretended as cloud_hypervisor
from tests.infra.firecracker import pretended as firecracker
from tests.infra.vmm.pretended import MIB
from tests.support.held_threads import held_threads
from tests.support.leaks import Leaks
from tests.support.vmm_server import Reply

from waggle.domain.errors import BootFailed, WaggleError
from waggle.infra.guest.frozen import FrozenFiles, Origin
from waggle.infra.vmm import placed

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
Pretended = firecracker.Pretended | cloud_hypervisor.Pretended
Make = Callable[[Path, Origin | None], AbstractAsyncContextManager[Pretended]]
BOTH: dict[str, Make] = {
    "firecracker": firecracker.pretended,
    "cloud-hypervisor": cloud_hypervisor.pretended,
}
LARGE = {"firecracker": "memory", "cloud-hypervisor": "snapshot/memory-ranges"}


@pytest.fixture
def frozen() -> Generator[FrozenFiles]:
    with contextlib.closing(FrozenFiles("name", mib=MIB)) as made:
        os.pwrite(made.state, b"the state of a pretended Firecracker", 0)
        made.seal()
        yield made


@contextlib.asynccontextmanager
async def machine(name: str, place: Path, frozen: FrozenFiles) -> AsyncGenerator[Pretended]:
    async with BOTH[name](place, Origin(frozen.ram, frozen.state)) as made:
        assert await made.boot() is None
        yield made


@pytest.mark.parametrize("name", BOTH)
async def test_a_machine_that_is_stopped_meanwhile_touches_no_other_machines_files(
    name: str, tmp_path: Path, frozen: FrozenFiles
) -> None:
    """What it has open is closed, and the next machine's files get the same numbers."""
    leaks = Leaks()
    (tmp_path / "next" / "snapshot").mkdir(parents=True)
    files = {"state", "snapshot/state.json", "snapshot/memory-ranges"}
    for file in files:
        (tmp_path / "next" / file).write_bytes(b"the next one's")
    with contextlib.ExitStack() as stack:
        async with machine(name, tmp_path, frozen) as made:
            with held_threads() as threads:
                freezing = asyncio.create_task(made.machine.freeze(made.spec.disks))
                async with asyncio.timeout(20):
                    await threads.asked.wait()
                run = made.process.run
                await made.machine.stop()
                while True:
                    other = os.open(tmp_path / "next", os.O_RDONLY | os.O_DIRECTORY)
                    stack.callback(os.close, other)
                    if other >= run:
                        break
                threads.go()
                with contextlib.suppress(WaggleError, OSError):
                    (await freezing).close()
        for file in files:
            assert (tmp_path / "next" / file).read_bytes() == b"the next one's"
    await leaks.settle()


@pytest.mark.parametrize("name", BOTH)
async def test_a_full_run_is_its_vmms_fault_and_not_a_full_disk(
    name: str, tmp_path: Path, frozen: FrozenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VMM that was taken over fills it, and the operator would look for room on the disk."""

    def full(descriptor: int, _uid: int | None) -> int:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with machine(name, tmp_path, frozen) as made:
        with monkeypatch.context() as patch:
            patch.setattr(placed, "give", full)
            with pytest.raises(BootFailed, match=r"'s /run cannot be used: No space left on dev"):
                await made.machine.freeze(made.spec.disks)
        await made.machine.unpause()
        (await made.machine.freeze(made.spec.disks)).close()


@pytest.mark.parametrize("name", BOTH)
async def test_a_vmm_that_never_answers_is_waited_for_as_long_as_its_memory_takes(
    name: str, tmp_path: Path, frozen: FrozenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait for its turn, and a boot has much longer."""
    monkeypatch.setattr("waggle.infra.vmm.machine._WRITE_SECONDS", 0)
    monkeypatch.setattr("waggle.infra.vmm.machine._WRITE_MIB", 10 * MIB)
    answers = asyncio.Event()

    async def late() -> Reply:
        await answers.wait()
        return Reply()

    async with machine(name, tmp_path, frozen) as made:
        others = made.server.respond
        snapshots = ("createSnapshot", "vm.snapshot")
        made.server.respond = lambda call: (
            late() if call.endpoint.name in snapshots else others(call)
        )
        assert made.spec.boot_timeout > 1
        with pytest.raises(BootFailed, match=r"it took more than 0\.1 s"):
            await made.machine.freeze(made.spec.disks)
        answers.set()


@pytest.mark.parametrize("name", BOTH)
async def test_a_freeze_that_is_cancelled_ends_once_its_thread_has(
    name: str, tmp_path: Path, frozen: FrozenFiles
) -> None:
    leaks = Leaks()
    async with machine(name, tmp_path, frozen) as made:
        with held_threads() as threads:
            freezing = asyncio.create_task(made.machine.freeze(made.spec.disks))
            async with asyncio.timeout(20):
                await threads.asked.wait()
            freezing.cancel()
            assert not (await asyncio.wait({freezing}, timeout=0.1))[0]
            threads.go()
            with pytest.raises(asyncio.CancelledError):
                await freezing
        await made.machine.unpause()
        (await made.machine.freeze(made.spec.disks)).close()
    await leaks.settle()


@pytest.mark.parametrize("name, files", LARGE.items())
async def test_what_a_vmm_has_left_is_not_freed_on_the_event_loop(
    name: str, files: str, tmp_path: Path, frozen: FrozenFiles
) -> None:
    """A VMM that its guest has taken over may leave as much as its /run holds."""
    async with machine(name, tmp_path, frozen) as made:
        left = made.vmm.directory / files
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"large")
        with held_threads() as threads:
            freezing = asyncio.create_task(made.machine.freeze(made.spec.disks))
            async with asyncio.timeout(20):
                await threads.asked.wait()
            assert left.read_bytes() == b"large"
            threads.go()
            (await freezing).close()
        assert not left.exists()
