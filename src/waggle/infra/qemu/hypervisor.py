# SPDX-License-Identifier: Apache-2.0
"""Boot machines with QEMU's `microvm`; implements `domain.machine.FreezingHypervisor`.

Starts one confined QEMU per machine with everything passed as descriptors, then waits for the
first of: the guest's ready line, the process's end, a panic on the console, the deadline. A frozen
machine is a directory with two files, RAM and STATE.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from waggle.domain.errors import BootFailed, PortTaken
from waggle.domain.machine import MachineSpec
from waggle.infra.confined import ConfinedProcess
from waggle.infra.guest.boot import until_booted
from waggle.infra.guest.console import Console
from waggle.infra.qemu.argv import MACHINE, qemu_argv
from waggle.infra.qemu.identity import host_cpu, host_model, program_digest
from waggle.infra.qemu.machine import RAM, STATE, QemuMachine
from waggle.infra.qemu.ram import load_ram, new_ram
from waggle.infra.qemu.tsc import tsc_khz
from waggle.infra.qemu.wires import open_wires

_PORT_TAKEN = "host forwarding rule"
_KVM = Path("/dev/kvm")


class QemuHypervisor:
    """`accelerator` is `kvm` or `tcg`; whether KVM is usable was decided before."""

    name = "qemu"

    def __init__(self, binary: str, accelerator: str) -> None:
        self._binary = binary
        self._accelerator = accelerator
        self._tsc_khz = tsc_khz() if accelerator == "tcg" else None

    async def boot(self, spec: MachineSpec) -> QemuMachine:
        """Boot a machine; see `domain.machine.Hypervisor.boot`.

        Raises BootFailed, PortTaken, or SetupIncomplete when QEMU itself cannot be started.
        """
        return await self._until_booted(self._start(spec), spec)

    def fingerprint(self) -> Mapping[str, str]:
        """See `domain.machine.FreezingHypervisor.fingerprint`. Raises SetupIncomplete."""
        return {
            "vmm": program_digest(self._binary),
            "machine": MACHINE,
            "accelerator": self._accelerator,
            "cpu": f"max on {host_model()}" if self._accelerator == "tcg" else host_cpu(),
        }

    async def boot_freezable(self, spec: MachineSpec) -> QemuMachine:
        """See `domain.machine.FreezingHypervisor.boot_freezable`."""
        ram = new_ram(spec.resources.memory_mib)
        try:
            machine = self._start(spec, ram=ram)
        except BaseException:
            os.close(ram)
            raise
        return await self._until_booted(machine, spec)

    async def resume(self, spec: MachineSpec, frozen: Path) -> QemuMachine:
        """See `domain.machine.FreezingHypervisor.resume`."""
        ram = await asyncio.to_thread(load_ram, frozen / RAM)
        try:
            machine = self._start(spec, ram=ram, state=frozen / STATE)
        finally:
            os.close(ram)
        return await self._until_booted(machine, spec)

    async def _until_booted(self, machine: QemuMachine, spec: MachineSpec) -> QemuMachine:
        try:
            await until_booted(machine, spec.boot_timeout)
        except BootFailed as error:
            if any(_PORT_TAKEN in line for line in machine.console_tail()):
                raise PortTaken("The forwarded port was taken in between.") from error
            raise
        return machine

    def _start(
        self, spec: MachineSpec, *, ram: int | None = None, state: Path | None = None
    ) -> QemuMachine:
        """Open everything, start QEMU, close what only QEMU needs."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            console = Console(spec.console_log)
            undo.callback(console.close)
            wires, inherited = open_wires(spec, undo, theirs, ram=ram, state=state)
            argv = qemu_argv(
                self._binary,
                accelerator=self._accelerator,
                resources=spec.resources,
                ssh_port=spec.ssh_port,
                fds=inherited.descriptors,
                tsc_khz=self._tsc_khz,
            )
            process = ConfinedProcess.start(
                argv,
                descriptors=inherited.descriptors.all(),
                stderr=inherited.messages,
                uid=spec.uid,
                groups=self._groups(),
                background=spec.background,
            )
            undo.pop_all()
            resumed_from = inherited.descriptors.state
            own = ram if state is None else None
            return QemuMachine(spec.id, process, console, wires, ram=own, state=resumed_from)

    def _groups(self) -> list[int]:
        """The group that may use /dev/kvm, for a QEMU that is not root."""
        if self._accelerator != "kvm":
            return []
        with contextlib.suppress(OSError):
            device = _KVM.stat()
            if stat.S_IMODE(device.st_mode) & 0o060:
                return [device.st_gid]
        return []
