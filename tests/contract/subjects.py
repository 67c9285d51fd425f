# SPDX-License-Identifier: Apache-2.0
"""The hypervisors under contract, and how a test boots them, with success or failure.

A `Subject` makes cases; a `Case` is one specification with its keys, for looking inside the
guest. Another hypervisor is one more subject.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support import vmms
from tests.support.hypervisor import KERNEL, FakeHypervisor
from tests.support.images import busybox_layer, directory, file, write_layout
from tests.support.vm import BOOT_SECONDS, CACHE, Parts, parts_of, sh

from waggle.config import load
from waggle.domain.host import no_progress
from waggle.domain.image import BootImage
from waggle.domain.machine import GuestDisks, Hypervisor, Machine, MachineSpec, Resources
from waggle.domain.programs import GuestUser
from waggle.infra.cloud_hypervisor.hypervisor import CloudHypervisor
from waggle.infra.firecracker.hypervisor import FirecrackerHypervisor
from waggle.infra.host.hypervisors import choose_acceleration, read_kvm_facts
from waggle.infra.krun.machine import KrunHypervisor
from waggle.infra.krun.probe import read_krun_facts
from waggle.infra.net.ports import PortAllocator
from waggle.infra.qemu.board import FULL
from waggle.infra.qemu.hypervisor import QemuHypervisor
from waggle.infra.rootfs.machine_disks import ScratchDisks, identity_records, pack
from waggle.infra.ssh import EnvironmentKeys, SshConnection, new_keys
from waggle.infra.ssh.run import Shell
from waggle.infra.vmm.machine import NO_ORDER
from waggle.infra.vmm.version import Vmm
from waggle.service.local.host import is_root
from waggle.service.local.images.images import ImageService

RESOURCES = Resources(cpus=1, memory_mib=192, disk_mib=64)
_UID_BASE = 1_900_000_000


@dataclass(slots=True)
class Case:
    """A machine to boot, and the keys of its guest."""

    spec: MachineSpec
    keys: EnvironmentKeys

    async def banner(self) -> bytes:
        """Return the first line that the forwarded port sends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.spec.ssh_port)
        try:
            async with asyncio.timeout(20):
                return await reader.readline()
        finally:
            writer.close()
            await writer.wait_closed()

    async def root(self, script: str) -> str:
        """Run a script as root in the guest and return both its outputs."""
        connection = SshConnection(self.spec.ssh_port, self.keys)
        try:
            result = await Shell(connection).run(sh(script, user=GuestUser.ROOT))
        finally:
            await connection.aclose()
        return result.stdout.text() + result.stderr.text()


@dataclass(slots=True)
class Running:
    """A booted case, shared by tests that only look."""

    case: Case
    machine: Machine


@dataclass(slots=True)
class Subject:
    """One hypervisor. `is_real` says whether it has a guest to look into."""

    hypervisor: Hypervisor
    parts: Parts
    image: Path
    tmp: Path
    is_real: bool
    kits: dict[str, Path]
    """Kits that fail: `silent`, `exits`, `garbage`, and `faults` for real hypervisors."""
    ports: PortAllocator = field(default_factory=lambda: PortAllocator(24_000, 25_000))
    machines: list[Machine] = field(default_factory=list[Machine])

    @property
    def hears_kernel(self) -> bool:
        """Whether its guest's kernel has a console: without, only the first process is heard."""
        return self.hypervisor.name != "firecracker"

    @property
    def reset(self) -> str:
        """The cause of the end of a machine that its guest's kernel resets without a word."""
        return "the guest shut down" if self.hears_kernel else NO_ORDER

    def panic(self, words: str) -> str:
        """Return what is known of a panic with these words."""
        return words if self.hears_kernel else NO_ORDER

    async def case(self, resources: Resources = RESOURCES) -> Case:
        """Return a machine that boots, with separate disks and a separate port."""
        lease = self.ports.lease()  # released below, and not handed out again for a long time
        home = self.tmp / f"machine-{lease.port}"
        home.mkdir(mode=0o700)
        keys = new_keys()
        identity = pack(
            identity_records(
                host_key=keys.host_key,
                authorized_keys=keys.authorized_keys,
                hostname="contract",
                environment={},
            )
        )
        (home / "identity.img").write_bytes(identity)
        await ScratchDisks(CACHE / "disks").make(resources.disk_mib, home / "scratch.img")
        spec = MachineSpec(
            id=home.name,
            resources=resources,
            kernel=self.parts.kernel,
            disks=GuestDisks(
                self.parts.kit, self.image, home / "scratch.img", home / "identity.img"
            ),
            ssh_port=lease.port,
            console_log=home / "console.log",
            boot_timeout=BOOT_SECONDS,
            uid=_UID_BASE + lease.port if is_root() else None,
        )
        lease.release()
        return Case(spec, keys)

    async def boot(self, case: Case) -> Machine:
        """Boot the case; the machine is stopped at the end of the test at the latest."""
        machine = await self.hypervisor.boot(case.spec)
        self.machines.append(machine)
        return machine

    async def close(self) -> None:
        while self.machines:
            await self.machines.pop().stop()


def with_kit(kit: Path) -> Callable[[MachineSpec], MachineSpec]:
    return lambda spec: replace(spec, disks=replace(spec.disks, kit=kit))


async def real_kits(tmp: Path) -> dict[str, Path]:
    """Make bad kits: one no kernel mounts, one whose init does nothing, and two whose init ends."""
    kits = {"garbage": tmp / "garbage.img"}
    kits["garbage"].write_bytes(bytes(range(256)) * 4096)
    images = ImageService(
        store=CACHE / "images", disks=CACHE / "disks", layers=CACHE / "layers", runtimes={}
    )
    scripts = {
        "silent": "sleep 1000000",
        "exits": "echo contract: giving up",
        "faults": "echo Kernel panic - not syncing: Fatal exception in interrupt",
    }
    for name, script in scripts.items():
        init = file("init", f"#!/bin/busybox sh\nexec /bin/busybox {script}\n".encode(), 0o755)
        empty = [directory(path) for path in ("dev", "proc")]
        write_layout(tmp / name, [[*busybox_layer(), init, *empty]], compression="")
        kits[name] = (await images.boot_image(str(tmp / name), no_progress)).disk
    return kits


def real_hypervisors() -> dict[str, Hypervisor]:
    """Return the usable hypervisors. Without hardware virtualisation, most run in the lab only."""
    acceleration = choose_acceleration("auto", read_kvm_facts())
    usable: dict[str, Hypervisor] = {}
    if binary := shutil.which("qemu-system-x86_64"):
        usable["qemu"] = QemuHypervisor(binary, acceleration.accel)
    krun = read_krun_facts(load().libkrun_path)
    if acceleration.accel == "kvm" and not krun.problem:
        usable["krun"] = KrunHypervisor(krun.library)
    if not vmms.why_not(Vmm.FIRECRACKER):
        programs = vmms.store()
        usable["firecracker"] = FirecrackerHypervisor(
            programs.newest, programs.find, jailed=is_root()
        )
    if not vmms.why_not(Vmm.CLOUD_HYPERVISOR):
        programs = vmms.store()
        usable["cloud-hypervisor"] = CloudHypervisor(programs.newest, programs.find)
    assert usable, "neither QEMU nor libkrun is usable: run 'waggle setup'"
    return usable


def full_qemu() -> QemuHypervisor:
    """Return QEMU with the board of the full kernel."""
    binary = shutil.which("qemu-system-x86_64")
    assert binary, "QEMU is not usable: run 'waggle setup'"
    return QemuHypervisor(binary, choose_acceleration("auto", read_kvm_facts()).accel, board=FULL)


async def full_subject(tmp: Path, parts: Parts, image: BootImage) -> Subject:
    """Return QEMU with the full kernel, which is that of `parts`."""
    kits = await real_kits(tmp)
    return Subject(full_qemu(), parts, image.disk, tmp, is_real=True, kits=kits)


async def real_subject(name: str, tmp: Path, parts: Parts, image: BootImage) -> Subject:
    kits = await real_kits(tmp)
    hypervisor = real_hypervisors()[name]
    parts = parts_of(hypervisor, parts)
    return Subject(hypervisor, parts, image.disk, tmp, is_real=True, kits=kits)


def fake_subject(tmp: Path) -> Subject:
    """Return the fake hypervisor, with pretended parts; only the scratch disks are real."""
    parts = Parts(tmp / "kernel", tmp / "kit")
    parts.kernel.write_bytes(KERNEL)
    parts.kit.write_bytes(b"kit")
    image = tmp / "image"
    image.write_bytes(b"image")
    kits = {"silent": b"silent", "exits": b"exits", "garbage": b"panic\n"}
    for name, content in kits.items():
        (tmp / name).write_bytes(content)
    assert shutil.which("sleep")
    return Subject(
        FakeHypervisor(),
        parts,
        image,
        tmp,
        is_real=False,
        kits={name: tmp / name for name in kits},
    )
