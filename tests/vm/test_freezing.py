# SPDX-License-Identifier: Apache-2.0
"""Frozen machines: programs, memory and files resume in copies and after a pause to disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import anyio
import pytest
from tests.support.harm import cut, flip
from tests.support.in_turn import frozen_of, pause_to_disk
from tests.support.small_disk import needs_root, small_disk
from tests.support.vm import Lab, environment, freezing_of, lines, root, sh

from waggle.config import load
from waggle.domain.environment import Environment
from waggle.domain.errors import BootFailed, DiskFull, FrozenMachineUnusable
from waggle.domain.host import FrozenMachine, no_progress
from waggle.infra.qemu.hypervisor import QemuHypervisor
from waggle.infra.store import frozen_files
from waggle.service.local.frozen import FrozenMachine as LocalFrozenMachine
from waggle.service.local.frozen import frozen_in
from waggle.service.local.guest import LocalGuest
from waggle.service.local.host import LocalHost

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.usefixtures("leaks"),
    pytest.mark.timeout(300),
]
IDS = "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id"
COUNTER = (
    "echo 0 >/dev/shm/count; i=0; while :; do i=$((i+1)); echo $i >/dev/shm/next; "
    "mv /dev/shm/next /dev/shm/count; /.waggle/bin/busybox usleep 50000; "
    "done </dev/null >/dev/null 2>&1 &"
)
DRIFT = 0.05


@pytest.fixture
def booting(lab: Lab) -> Lab:
    freezing_of(lab)
    return lab


@pytest.fixture
def freezing(booting: Lab, quick: Lab) -> Lab:
    """A lab for tests that do not depend on how a machine came up."""
    return quick


async def started(lab: Lab) -> tuple[LocalHost, Environment, LocalGuest]:
    host, described = lab.host(), environment()
    return host, described, lab.adopt(await host.create(described, no_progress))


async def copy(lab: Lab, host: LocalHost, frozen: FrozenMachine) -> LocalGuest:
    return lab.adopt(await host.create(environment(), no_progress, frozen))


async def count(guest: LocalGuest) -> int:
    return int((await root(guest, "cat /dev/shm/count")).strip())


async def test_two_copies_resume_programs_memory_and_files_and_differ_in_identity(
    booting: Lab,
) -> None:
    host, _, origin = await started(booting)
    await root(origin, f"echo disk >/etc/kept; echo memory >/dev/shm/kept; {COUNTER}")
    async with frozen_of(origin) as frozen:
        before = await count(origin)
        first, second = [await copy(booting, host, frozen) for _ in range(2)]
    assert list((booting.directory / "frozen").iterdir()) == []
    for guest in (first, second):
        assert await root(guest, "cat /etc/kept /dev/shm/kept") == "disk\nmemory\n"
    identities = [lines(await guest.run(sh(IDS))) for guest in (origin, first, second)]
    for values in zip(*identities, strict=True):
        assert len(set(values)) == 3, values
    await root(first, "echo mine >/etc/kept; pkill -f count || true")
    assert await root(second, "cat /etc/kept") == "disk\n"
    assert await root(origin, "cat /etc/kept") == "disk\n"
    for guest in (second, origin):
        seen = await count(guest)
        with anyio.fail_after(20):
            while await count(guest) <= max(seen, before):
                pass


async def test_a_call_in_the_origin_continues_during_a_freeze(freezing: Lab) -> None:
    _, _, origin = await started(freezing)
    results: list[list[str]] = []

    async def work() -> None:
        script = "for i in 1 2 3 4 5 6; do /.waggle/bin/busybox usleep 300000; echo $i; done"
        results.append(lines(await origin.run(sh(script))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        async with frozen_of(origin):
            pass
    assert results == [["1", "2", "3", "4", "5", "6"]]


async def test_a_copy_answers_nothing_that_its_origin_was_asked(freezing: Lab) -> None:
    """Else each of its answers is taken for that to the next question, and its clock goes wrong."""
    host, _, origin = await started(freezing)
    asking = asyncio.create_task(origin.started.machine.settle())  # takes its PID 1 some seconds
    await asyncio.sleep(0)
    async with frozen_of(origin) as frozen:
        again = await copy(freezing, host, frozen)
    ahead = await again.started.machine.agent.clock() - time.time_ns()
    assert abs(ahead) < 10**9
    await asking


async def test_a_copy_of_a_copy_has_the_same_memory(freezing: Lab) -> None:
    """A copy's memory lies partly in the file of its frozen machine, which is gone by then."""
    host, _, origin = await started(freezing)
    await root(origin, "dd if=/dev/urandom of=/dev/shm/x bs=1M count=20 2>/dev/null")
    digest = await root(origin, "sha256sum /dev/shm/x")
    async with frozen_of(origin) as frozen:
        child = await copy(freezing, host, frozen)
    async with frozen_of(child) as frozen:
        grandchild = await copy(freezing, host, frozen)
    assert await root(grandchild, "sha256sum /dev/shm/x") == digest


async def test_a_machine_paused_to_disk_holds_no_port_and_later_has_its_id_and_the_time(
    booting: Lab,
) -> None:
    host, described, guest = await started(booting)
    await root(guest, f"echo disk >/etc/kept; echo memory >/dev/shm/kept; {COUNTER}")
    machine_id = await root(guest, "cat /etc/machine-id")
    await pause_to_disk(guest)
    assert not booting.ports.leased
    files = booting.environments / described.id
    assert frozen_in(files).is_dir()
    seen = 0
    for _ in range(2):
        if seen:  # as after a restart of the server
            assert await host.recover(described)
        resumed = booting.adopt(await host.resume(described, no_progress))
        assert not frozen_in(files).exists()
        assert await root(resumed, "cat /etc/kept /dev/shm/kept") == "disk\nmemory\n"
        clock = await resumed.started.machine.agent.clock()
        assert abs(clock / 1e9 - time.time()) <= DRIFT + 1.0  # the answer took a while
        assert await root(resumed, "cat /etc/machine-id") == machine_id
        assert await count(resumed) > seen
        seen = await count(resumed)
        await pause_to_disk(resumed)
    await host.discard(described)
    assert not files.exists()


@needs_root
async def test_a_resumed_machine_leaves_no_state_even_if_deleting_it_fails(freezing: Lab) -> None:
    """If the server were killed then, half a state would be left, which looks like a whole one."""
    host, described, guest = await started(freezing)
    await pause_to_disk(guest)
    state = frozen_in(freezing.environments / described.id)
    with small_disk(state / "held", 1):  # a mount point cannot be deleted
        freezing.adopt(await host.resume(described, no_progress))
        assert not state.exists()


async def test_a_paused_machine_uses_no_cpu_and_then_has_the_right_time(freezing: Lab) -> None:
    _, _, guest = await started(freezing)
    await root(guest, COUNTER)
    before = await count(guest)
    await guest.pause()
    used = (await guest.resource_use()).cpu_seconds  # type: ignore[union-attr]
    await anyio.sleep(0.5)  # the measurement needs an idle interval
    assert (await guest.resource_use()).cpu_seconds - used < 0.1  # type: ignore[union-attr]
    await guest.unpause()
    began = time.time()
    clock = await guest.started.machine.agent.clock()
    assert began - DRIFT <= clock / 1e9 <= time.time() + DRIFT
    assert await count(guest) >= before


async def test_a_damaged_state_is_refused_and_kept(freezing: Lab) -> None:
    host, described, guest = await started(freezing)
    await pause_to_disk(guest)
    frozen = frozen_in(freezing.environments / described.id)
    harms: list[tuple[str, Callable[[Path], None]]] = [
        ("state", cut),
        ("ram", flip),
        ("scratch.img", flip),
        ("manifest.json", cut),
    ]
    for name, harm in harms:
        whole = (frozen / name).read_bytes()
        harm(frozen / name)
        with pytest.raises(FrozenMachineUnusable, match=name.replace(".", r"\.")):
            await host.resume(described, no_progress)
        assert await host.recover(described)
        (frozen / name).write_bytes(whole)
    resumed = freezing.adopt(await host.resume(described, no_progress))
    assert lines(await resumed.run(sh("echo works"))) == ["works"]


def reseal(directory: Path, **changes: object) -> None:
    """Seal the directory again with changed facts, as if it had been made with them."""
    facts = frozen_files.facts(directory)
    (directory / "manifest.json").unlink()
    frozen_files.seal(directory, {**facts, **changes})


async def test_a_state_of_another_vmm_processor_or_part_is_refused(freezing: Lab) -> None:
    host, described, guest = await started(freezing)
    await pause_to_disk(guest)
    frozen = frozen_in(freezing.environments / described.id)
    facts = frozen_files.facts(frozen)
    vmm = cast("dict[str, str]", facts["vmm"])
    for changes, why in (
        ({"vmm": {**vmm, "vmm": "another"}}, "locked to another version of"),
        ({"vmm": {**vmm, "cpu": "another"}}, "locked to another processor"),
        ({"kit": "kit-of-yesterday"}, "parts is gone: kit-of-yesterday"),
        ({"kernel": "../../etc/passwd"}, "not one of ours"),
        ({"resources": None}, "not one of ours"),
    ):
        reseal(frozen, **changes)
        with pytest.raises(FrozenMachineUnusable, match=why):
            await host.resume(described, no_progress)
        reseal(frozen, **facts)
    freezing.adopt(await host.resume(described, no_progress))


@pytest.fixture
def another_qemu(booting: Lab) -> Generator[Path]:
    """Yield a copy of QEMU with another digest, beside links to its modules and data."""
    if not isinstance(booting.hypervisor, QemuHypervisor):
        pytest.skip("NOT TESTED: machines of another hypervisor")
    with tempfile.TemporaryDirectory(prefix="waggle-qemu-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        found = shutil.which(load().qemu_binary)
        assert found is not None
        (place / "bin").mkdir()
        for name in ("lib", "share"):
            (place / name).symlink_to(Path("/usr") / name)
        other = Path(shutil.copy(found, place / "bin" / "qemu"))
        with other.open("ab") as program:
            program.write(b"another")
        yield other


async def test_a_machine_frozen_by_an_older_qemu_resumes_only_with_that_one(
    booting: Lab, another_qemu: Path
) -> None:
    newer = cast("QemuHypervisor", booting.hypervisor)
    accelerator = newer.fingerprint()["accelerator"]
    booting.hypervisor = older = QemuHypervisor(str(another_qemu), accelerator)
    host, described, guest = await started(booting)
    await pause_to_disk(guest)

    booting.hypervisor = newer
    with pytest.raises(FrozenMachineUnusable, match="version of QEMU") as refused:
        await booting.host().resume(described, no_progress)
    assert "WAGGLE_QEMU_OLDER" in str(refused.value.hint)

    binary = load().qemu_binary
    booting.hypervisor = both = QemuHypervisor(binary, accelerator, older=[str(another_qemu)])
    host = booting.host()
    resumed = booting.adopt(await host.resume(described, no_progress))
    async with frozen_of(resumed) as frozen:
        state = cast("LocalFrozenMachine", frozen).state
        assert both.fingerprint(state) == older.fingerprint() != both.fingerprint()
        fork = await copy(booting, host, frozen)
    assert lines(await fork.run(sh("echo works"))) == ["works"]
    await pause_to_disk(resumed)
    resumed = booting.adopt(await host.resume(described, no_progress))
    assert lines(await resumed.run(sh("echo works"))) == ["works"]


async def test_a_qemu_replaced_while_its_machine_ran_is_detected(
    booting: Lab, another_qemu: Path
) -> None:
    accelerator = cast("QemuHypervisor", booting.hypervisor).fingerprint()["accelerator"]
    kept = another_qemu.with_name("kept")
    booting.hypervisor = QemuHypervisor(str(another_qemu), accelerator, older=[str(kept)])
    host, described, guest = await started(booting)
    another_qemu.rename(another_qemu.with_name("away"))
    shutil.copy(str(shutil.which(load().qemu_binary)), another_qemu)
    with pytest.raises(BootFailed, match="not here any more") as refused:
        await pause_to_disk(guest)
    assert "WAGGLE_QEMU_OLDER" in str(refused.value.hint)
    await guest.unpause()
    assert lines(await guest.run(sh("echo works"))) == ["works"]

    another_qemu.with_name("away").rename(kept)
    await pause_to_disk(guest)
    resumed = booting.adopt(await host.resume(described, no_progress))
    assert lines(await resumed.run(sh("echo works"))) == ["works"]


async def test_a_state_that_the_vmm_cannot_read_is_refused_by_it(freezing: Lab) -> None:
    """Its digest is right, as in a deliberate forgery."""
    host, described, guest = await started(freezing)
    await pause_to_disk(guest)
    frozen = frozen_in(freezing.environments / described.id)
    whole = (frozen / "state").read_bytes()
    for nonsense in (b"", whole[: len(whole) // 2], b"QEVM\0\0\0\3" + b"nonsense" * 1000):
        (frozen / "state").write_bytes(nonsense)
        reseal(frozen)
        with pytest.raises(BootFailed):
            await host.resume(described, no_progress)
        assert not freezing.ports.leased
    (frozen / "state").write_bytes(whole)
    reseal(frozen)
    resumed = freezing.adopt(await host.resume(described, no_progress))
    assert lines(await resumed.run(sh("echo works"))) == ["works"]


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can mount a small disk")
async def test_a_pause_to_a_full_disk_leaves_the_machine_running(freezing: Lab) -> None:
    disk = freezing.environments
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "none", str(disk)]
    await anyio.run_process(mount)
    try:
        _, described, guest = await started(freezing)
        await root(guest, "dd if=/dev/urandom of=/dev/shm/x bs=1M count=30 2>/dev/null")
        with pytest.raises(DiskFull, match="no room in"):
            await pause_to_disk(guest)
        await guest.unpause()
        assert lines(await guest.run(sh("echo works"))) == ["works"]
        assert not frozen_in(disk / described.id).exists()
        assert not list((disk / described.id).glob(".tmp-*"))
        await guest.destroy()
    finally:
        await anyio.run_process(["umount", str(disk)])


async def test_leftovers_of_an_interrupted_freeze_are_removed(freezing: Lab) -> None:
    host, described, guest = await started(freezing)
    files = freezing.environments / described.id
    (files / ".tmp-frozen").mkdir()
    (files / ".tmp-frozen" / "ram").write_bytes(b"half")
    (freezing.directory / "frozen" / ".tmp-x").mkdir(parents=True)
    await guest.destroy()
    files.mkdir()
    (files / ".tmp-frozen").mkdir()
    assert not await host.recover(described)
    host.sweep()
    assert list(freezing.environments.iterdir()) == []
    assert list((freezing.directory / "frozen").iterdir()) == []
