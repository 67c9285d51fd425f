# SPDX-License-Identifier: Apache-2.0
"""What only a real Firecracker shows: broken states, kills at every stage, the cost of a copy."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.contract.firecracker import ON_FIRECRACKER, copy_of, hypervisor, resumed
from tests.contract.subjects import Subject, real_subject, with_kit
from tests.support import vmms
from tests.support.leaks import Leaks
from tests.support.vm import Parts

from waggle.domain.errors import BootFailed, FrozenMachineUnusable, GuestLost, SetupIncomplete
from waggle.domain.image import BootImage
from waggle.domain.machine import FrozenState
from waggle.infra.firecracker.hypervisor import FirecrackerHypervisor
from waggle.infra.guest.frozen import FrozenFiles
from waggle.infra.shared.sparse import copy_data
from waggle.infra.vmm.binaries import BinaryStore
from waggle.infra.vmm.version import Vmm

pytestmark = ON_FIRECRACKER
IDLE_KIB = 32 * 1024
"""What an idle copy may have of its own, with its guard."""


@pytest.fixture
async def firecracker(
    leaks: Leaks, guest_parts: Parts, busybox_image: BootImage, tmp_path: Path
) -> AsyncGenerator[Subject]:
    made = await real_subject("firecracker", tmp_path, guest_parts, busybox_image)
    yield made
    await made.close()


@contextlib.contextmanager
def changed(frozen: FrozenState, edit: Callable[[bytes], bytes]) -> Generator[FrozenFiles]:
    """Yield a frozen machine with the same memory and another state."""
    with contextlib.closing(FrozenFiles(frozen.vmm)) as made:
        copy_data(frozen.ram, made.ram)
        os.pwrite(made.state, edit(os.pread(frozen.state, 1 << 20, 0)), 0)
        yield made


def flipped(state: bytes) -> bytes:
    middle = len(state) // 2
    return state[:middle] + bytes([state[middle] ^ 1]) + state[middle + 1 :]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "truncated": lambda state: state[: len(state) // 2],
    "empty": lambda _: b"",
    "foreign": lambda _: b"QEVM" + bytes(10_000),
    "newer": lambda state: state[:8] + (99).to_bytes(8, "little") + state[16:],
}


async def test_a_broken_state_is_refused_with_the_vmms_reason(firecracker: Subject) -> None:
    origin = await firecracker.case()
    machine = await firecracker.boot(origin)
    with contextlib.closing(await machine.freeze(origin.spec.disks)) as frozen:
        await machine.stop()
        for name, edit in BROKEN.items():
            case = await copy_of(firecracker, origin)
            with changed(frozen, edit) as broken, pytest.raises(BootFailed) as refused:
                await hypervisor(firecracker).resume(case.spec, broken)
            assert "loadSnapshot" in refused.value.message, name
        case = await copy_of(firecracker, origin)
        small = replace(case.spec, resources=replace(case.spec.resources, memory_mib=128))
        with pytest.raises(FrozenMachineUnusable, match="another size"):
            await hypervisor(firecracker).resume(small, frozen)
        other = with_another_program(firecracker.tmp)
        for start in (other.boot(case.spec), other.resume(case.spec, frozen)):
            with pytest.raises(SetupIncomplete, match="was replaced") as replaced:
                await start
            assert "waggle vmm" in str(replaced.value.hint)
        await resumed(firecracker, case, frozen)
        assert (await case.root("echo whole")) == "whole\n"


def with_another_program(tmp: Path) -> FirecrackerHypervisor:
    """Return a hypervisor whose program was replaced since it was added."""
    vmms.provide(tmp / "data")
    store = BinaryStore(tmp / "data" / "system" / "binaries")
    program = store.newest(Vmm.FIRECRACKER)
    with program.path.open("ab") as file:
        file.write(b"another")
    return FirecrackerHypervisor(store.newest, store.find, jailed=True)


async def test_a_copy_shares_memory_and_what_it_changes_is_its_own(firecracker: Subject) -> None:
    origin = await firecracker.case()
    machine = await firecracker.boot(origin)
    await origin.root("echo first >/tmp/x")
    with contextlib.closing(await machine.freeze(origin.spec.disks)) as frozen:
        await machine.unpause()
        assert (await origin.root("cat /tmp/x")) == "first\n"
        cases = [await copy_of(firecracker, origin) for _ in range(2)]
        copies = [await resumed(firecracker, case, frozen) for case in cases]
        await cases[0].root("echo second >/tmp/x")
        assert (await cases[1].root("cat /tmp/x")) == "first\n"
        used = [_private_kib(copy.identity.pid) for copy in copies]
        assert max(used) < IDLE_KIB, used
        for written in ("second", "third"):  # only what changed, and then all
            await cases[0].root(f"echo {written} >/tmp/x")
            with contextlib.closing(await copies[0].freeze(cases[0].spec.disks)) as again:
                case = await copy_of(firecracker, cases[0])
                await resumed(firecracker, case, again)
                assert (await case.root("cat /tmp/x")) == f"{written}\n"
            await copies[0].unpause()


def _private_kib(pid: int) -> int:
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    total = 0
    for process in (pid, parent):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return total


async def test_a_vmm_that_is_killed_at_any_stage_leaves_nothing(firecracker: Subject) -> None:
    """The `leaks` fixture and the subject's next boot see what is left."""
    case = await firecracker.case()
    silent = with_kit(firecracker.kits["silent"])(case.spec)
    for seconds in (0.0, 0.1, 0.3, 0.6, 1.5):  # somewhere in its start, its calls, its boot
        with anyio.move_on_after(seconds):
            await hypervisor(firecracker).boot(silent)
    machine = await firecracker.boot(case)
    await machine.pause()
    os.kill(machine.identity.pid, signal.SIGKILL)
    assert "killed by SIGKILL" in await machine.wait()
    with pytest.raises(GuestLost):
        await machine.unpause()
    await machine.stop()
    await firecracker.boot(case)


async def test_it_runs_in_its_jail(firecracker: Subject) -> None:
    case = await firecracker.case()
    machine = await firecracker.boot(case)
    proc = Path(f"/proc/{machine.identity.pid}")
    inside = {path.name for path in (proc / "root").iterdir()}
    assert {"kernel", "kit", "image", "scratch", "identity", "run", "proc", "dev"} <= inside
    assert not {"etc", "home", "usr", "var", "root", "tmp"} & inside
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    assert status["NSpid"].split()[-1] == "1"
    assert {status[name].strip() for name in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
    assert case.spec.uid is not None
    assert set(status["Uid"].split()) == {str(case.spec.uid)}
    filters = {
        dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())[
            "Seccomp"
        ].strip()
        for task in (proc / "task").iterdir()
    }
    assert filters == {"2"}, "each of its threads has a filter of system calls"
    for name in ("net", "ipc", "uts", "mnt", "pid"):
        assert (proc / "ns" / name).readlink() != Path(f"/proc/self/ns/{name}").readlink()
