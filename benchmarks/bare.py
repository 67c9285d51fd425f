# SPDX-License-Identifier: Apache-2.0
"""A bare QEMU: the same kernel, disks and memory as waggle's machines, started by hand.

Disks and keys are prepared beforehand and do not count. The measured part uses no code of the
server: one QEMU as a person would write it, and one asyncssh client.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from benchmarks import guest
from benchmarks.server import free_port
from waggle.app.values import image_references, image_service
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.host import no_progress
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.host.hypervisors import choose_acceleration, read_kvm_facts
from waggle.infra.qemu.argv import PROCESSORS
from waggle.infra.qemu.board import SMALL
from waggle.infra.qemu.frozen import tsc_khz
from waggle.infra.rootfs.kit import GuestKernel, GuestKit
from waggle.infra.rootfs.machine_disks import ScratchDisks, identity_records, pack
from waggle.infra.ssh import new_keys
from waggle.service.local.start import guest_variables

BOOT_SECONDS = 120.0
PAUSE = 0.05
READY = b"waggle: ready"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one machine, made beforehand. `known_hosts` pins the host key."""

    argv: list[str]
    port: int
    client_key: asyncssh.SSHKey
    known_hosts: bytes


async def prepare(settings: Settings, runtime: RuntimeName, directory: Path) -> Parts:
    """Make the disks and keys of a machine in an empty `directory`."""
    places = Places.of(settings)
    image = await image_service(settings).boot_image(
        image_references(settings)[runtime], no_progress
    )
    keys = new_keys()
    scratch, identity = directory / "scratch.img", directory / "identity.img"
    await ScratchDisks(places.disks).make(settings.scratch_mb, scratch)
    identity.write_bytes(
        pack(
            identity_records(
                host_key=keys.host_key,
                authorized_keys=keys.authorized_keys,
                hostname="bare",
                environment=guest_variables(
                    image.variables, proxy_port=None, has_certificates=False
                ),
            )
        )
    )
    port = free_port()
    known = f"[127.0.0.1]:{port} ".encode() + keys.host_public.export_public_key()
    argv = qemu_argv(
        settings,
        accelerator=choose_acceleration(settings.accel, read_kvm_facts()).accel,
        kernel=GuestKernel(places.guest).require(),
        disks=(GuestKit(places.guest).require(), image.disk, scratch, identity),
        port=port,
    )
    return Parts(argv, port, keys.client, known)


def qemu_argv(
    settings: Settings, *, accelerator: str, kernel: Path, disks: tuple[Path, ...], port: int
) -> list[str]:
    """Return the simplest command line that boots this guest. The third disk is writable."""
    counter = tsc_khz() if accelerator == "tcg" else None
    argv = [
        *(settings.qemu_binary, "-M", "microvm,acpi=off,isa-serial=off,rtc=on"),
        *("-accel", accelerator, "-cpu", PROCESSORS[accelerator]),
        *("-smp", str(settings.default_cpus), "-m", f"{settings.default_memory_mb}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel), "-append", SMALL.with_counter(counter).command_line),
        *("-chardev", "stdio,id=console", "-device", "virtio-serial-device"),
        *("-device", "virtconsole,chardev=console"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-device,netdev=net", "-device", "virtio-rng-device"),
    ]
    for number, disk in enumerate(disks):
        mode = "off" if number == 2 else "on"
        argv += ["-drive", f"if=none,id=disk{number},format=raw,readonly={mode},file={disk}"]
        argv += ["-device", f"virtio-blk-device,drive=disk{number}"]
    return argv


async def start_and_run(parts: Parts) -> float:
    """Return the seconds from QEMU's start until `true` has run over SSH. Then stops QEMU."""
    began = time.perf_counter()
    async with running(parts.argv) as output, asyncio.timeout(BOOT_SECONDS):
        await until_ready(output)
        return await _run_true(parts) - began


async def _run_true(parts: Parts) -> float:
    """Run `true` and return the time of its end."""
    while True:
        with contextlib.suppress(OSError, asyncssh.DisconnectError):
            async with guest.connected(
                parts.port, parts.client_key, parts.known_hosts
            ) as connection:
                await guest.run(connection, guest.frame(["true"]))
                return time.perf_counter()
        await asyncio.sleep(PAUSE)


async def until_ready(console: asyncio.StreamReader) -> None:
    """Read the console up to the line by which the guest is ready."""
    while READY not in await console.readline():
        pass


@asynccontextmanager
async def running(argv: list[str]) -> AsyncGenerator[asyncio.StreamReader]:
    """Run a QEMU, and yield its console; kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.kill()
        await process.communicate()
