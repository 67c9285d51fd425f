# SPDX-License-Identifier: Apache-2.0
"""The full guest kernel: freezing, and what the small one has not.

It also keeps the promises of the other modules here that are marked `both_kernels`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.subjects import Case, Running, Subject, full_qemu, full_subject
from tests.support.vm import Parts

from waggle.domain.errors import BootFailed
from waggle.domain.image import BootImage
from waggle.domain.machine import Machine, Resources
from waggle.infra.qemu.hypervisor import QemuHypervisor

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]
NETWORK = """\
set -e
ip link add br0 type bridge
ip link add type veth
cat /sys/class/net/br0/bridge/stp_state
modprobe xt_conntrack
modprobe nft_masq
grep -c -E '^(nf_conntrack|nf_tables|veth|xt_conntrack) ' /proc/modules
"""


@pytest.fixture
async def full(
    full_parts: Parts, busybox_image: BootImage, leaks: object, tmp_path: Path
) -> AsyncGenerator[Subject]:
    made = await full_subject(tmp_path, full_parts, busybox_image)
    yield made
    await made.close()


@pytest.fixture(scope="module")
async def one(
    full_parts: Parts, busybox_image: BootImage, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Running]:
    """Boot one machine for all tests that only look at it."""
    made = await full_subject(tmp_path_factory.mktemp("full"), full_parts, busybox_image)
    case = await made.case(Resources(cpus=2, memory_mib=320, disk_mib=96))
    yield Running(case, await made.boot(case))
    await made.close()


async def test_the_kernel_loads_the_modules_that_something_needs(one: Running) -> None:
    assert (await one.case.root(NETWORK)).split() == ["0", "4"]
    nodes = await one.case.root("ls /dev/net/tun /dev/loop-control; losetup -f")
    assert nodes.split() == ["/dev/loop-control", "/dev/net/tun", "/dev/loop0"]


async def test_a_panic_is_reported_with_its_cause(full: Subject) -> None:
    """This kernel prints more about itself after it than the console keeps."""
    case = await full.case()
    machine = await full.boot(case)
    asking = asyncio.create_task(case.root("echo c > /proc/sysrq-trigger"))
    async with asyncio.timeout(60):
        assert "Kernel panic - not syncing: sysrq" in await machine.wait()
    await asyncio.gather(asking, return_exceptions=True)


async def test_its_hypervisor_runs_containers_and_is_of_another_kind() -> None:
    full = full_qemu()
    small = QemuHypervisor("qemu-system-x86_64", "tcg")
    assert (full.capabilities.containers, small.capabilities.containers) == (True, False)
    assert full.fingerprint()["machine"] != small.fingerprint()["machine"]
    assert small.lock({**small.fingerprint(), "machine": full.fingerprint()["machine"]}) == (
        "kind of machine"
    )


async def test_a_kernel_without_its_initramfs_is_named(full: Subject, tmp_path: Path) -> None:
    case = await full.case()
    alone = tmp_path / "alone.elf"
    alone.symlink_to(case.spec.kernel)
    case.spec = replace(case.spec, kernel=alone)
    with pytest.raises(BootFailed, match=r"alone\.initrd cannot be opened"):
        await full.boot(case)


@contextlib.asynccontextmanager
async def resumed(full: Subject, case: Case, frozen_of: Machine) -> AsyncGenerator[Machine]:
    """Freeze a machine, end it, and resume a copy with the same disks."""
    assert isinstance(full.hypervisor, QemuHypervisor)
    frozen = await frozen_of.freeze(case.spec.disks)
    await frozen_of.stop()
    with contextlib.closing(frozen):
        copy = await full.hypervisor.resume(case.spec, frozen)
    full.machines.append(copy)
    yield copy


async def test_a_frozen_machine_resumes_and_is_renewed(full: Subject) -> None:
    case = await full.case()
    machine = await full.boot(case)
    await case.root("echo kept > /run/kept; modprobe bridge")
    records: Mapping[str, bytes] = {"hostname": b"copy", "seed": bytes(64)}
    async with resumed(full, case, machine) as copy:
        await copy.renew(records)
        ask = "hostname; cat /run/kept; grep -c ^bridge /proc/modules"
        assert (await case.root(ask)).split() == ["copy", "kept", "1"]
        assert (await case.root("modprobe veth; grep -c ^veth /proc/modules")).split() == ["1"]
