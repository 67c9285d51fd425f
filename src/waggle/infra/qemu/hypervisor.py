# SPDX-License-Identifier: Apache-2.0
"""Boot machines with QEMU, one of two boards; implements `domain.machine.FreezingHypervisor`.

Starts one confined QEMU per machine with everything passed as descriptors. `frozen` has the
transfer of the state of frozen machines.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from waggle.domain.errors import BootFailed, PortTaken, SetupIncomplete
from waggle.domain.machine import FrozenState, MachineSpec, Resources
from waggle.infra.guest.boot import KernelFault, until_booted
from waggle.infra.guest.console import Console
from waggle.infra.guest.frozen import FrozenFiles, reopened
from waggle.infra.qemu.argv import Inherited, Memory, kind, open_wires, qemu_argv
from waggle.infra.qemu.board import SMALL, Board
from waggle.infra.qemu.frozen import program_digest, program_of, tsc_khz
from waggle.infra.qemu.machine import Incoming, QemuMachine
from waggle.infra.shared.confined import ConfinedProcess, filled_pipe, kvm_group, python_argv
from waggle.infra.shared.disk_room import DiskRoom
from waggle.infra.shared.processor import host_cpu, host_model
from waggle.tasks import stage

if TYPE_CHECKING:
    from waggle.infra.qemu.starter import Plan

_DISCARD_REFUSED = "ram_block_discard_range"
"""Copies share a memory file, in which QEMU cannot punch the hole that a guest offers."""
_PORT_TAKEN = "host forwarding rule"
STARTER = "waggle.infra.qemu.starter"
_PARTS = {"vmm": "version of QEMU", "cpu": "processor", "machine": "kind of machine"}


class QemuHypervisor:
    """The hypervisor on QEMU. `accelerator` is `kvm` (already found to be usable) or `tcg`.

    `binary` boots machines. A machine frozen with one of the `older` programs is resumed with that
    one. `vmm` is the digest of a QEMU program and identifies it. `enclose` limits the resources of
    the VMM with a given process number; see `infra.shared.confined`. `board` must be that of the
    kernel that machines are given.
    """

    name = "qemu"

    def __init__(
        self,
        binary: str,
        accelerator: str,
        *,
        board: Board = SMALL,
        older: Sequence[str] = (),
        enclose: Callable[[Resources, int], Callable[[], None]] | None = None,
        room: DiskRoom | None = None,
    ) -> None:
        """Machines that met a full disk resume when there is `room`; None: they retry at once."""
        self.room = room or DiskRoom("the directory of environments", Path("/"), 0)
        self.capabilities = board.capabilities
        self._board = board
        self._binary = binary
        self._programs = (binary, *older)
        self._accelerator = accelerator
        self._enclose = enclose
        self._tsc_khz = tsc_khz() if accelerator == "tcg" else None

    async def boot(self, spec: MachineSpec) -> QemuMachine:
        """Boot a machine; see `domain.machine.Hypervisor.boot`.

        On an emulated processor that gets too little of the host's time, the kernel sometimes
        faults before the guest is ready, so the boot is tried once more. Raises BootFailed,
        PortTaken, or SetupIncomplete when QEMU itself cannot be started.
        """
        try:
            return await self._until_booted(self._start(spec), spec)
        except KernelFault:
            return await self._until_booted(self._start(spec), spec)

    def fingerprint(self, frozen: FrozenState | None = None) -> Mapping[str, str]:
        """See `domain.machine.FreezingHypervisor.fingerprint`."""
        vmm = frozen.vmm if frozen else program_digest(self._binary)
        return {"vmm": vmm, **self._hardware()}

    def _hardware(self) -> dict[str, str]:
        return {
            "machine": kind(self._accelerator, self._board),
            "accelerator": self._accelerator,
            "cpu": f"max on {host_model()}" if self._accelerator == "tcg" else host_cpu(),
        }

    def lock(self, fingerprint: Mapping[str, str]) -> str | None:
        """See `domain.machine.FreezingHypervisor.lock`. The `binary` may be gone or replaced."""
        ours, theirs = self._hardware(), dict(fingerprint)
        vmm = theirs.pop("vmm", "")
        differs = {k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)}
        if program_of(vmm, self._programs) is None:
            differs.add("vmm")
        return next((_PARTS.get(name, name) for name in sorted(differs)), None)

    def load(
        self, directory: Path, fingerprint: Mapping[str, str], *, alone: bool = False
    ) -> FrozenFiles:
        """See `domain.machine.FreezingHypervisor.load`."""
        return FrozenFiles.load(directory, fingerprint["vmm"], seal=not alone)

    async def resume(
        self, spec: MachineSpec, frozen: FrozenState, *, alone: bool = False
    ) -> QemuMachine:
        """See `domain.machine.FreezingHypervisor.resume`."""
        state = reopened(frozen.state)
        try:
            memory = Memory(frozen.ram, shared=alone)
            with stage("process"):
                incoming = Incoming(state, memory=False)
                machine = self._start(spec, memory, incoming, vmm=frozen.vmm)
        finally:
            os.close(state)
        with stage("state"):
            await self._until_booted(machine, spec)
        try:
            with stage("continue"):
                await machine.start()
        except BaseException:
            await machine.stop()
            raise
        return machine

    async def _until_booted(self, machine: QemuMachine, spec: MachineSpec) -> QemuMachine:
        try:
            await until_booted(machine, spec.boot_timeout)
        except BootFailed as error:
            if any(_PORT_TAKEN in line for line in machine.console_tail()):
                raise PortTaken("The forwarded port was taken in between.") from error
            raise
        return machine

    def _start(
        self,
        spec: MachineSpec,
        memory: Memory | None = None,
        incoming: Incoming | None = None,
        *,
        vmm: str | None = None,
    ) -> QemuMachine:
        """Open everything, start QEMU (`vmm`, or `binary`), and close what only QEMU needs."""
        vmm = vmm or program_digest(self._binary)
        program = program_of(vmm, self._programs)
        if program is None:
            raise BootFailed(
                "The QEMU that this machine's state is locked to is not here any more.",
                hint="It was replaced: name a copy of it with WAGGLE_QEMU_OLDER.",
            )
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            console = Console(spec.console_log, noise=_DISCARD_REFUSED)
            undo.callback(console.close)
            reachable = not (incoming and incoming.memory)
            wires, inherited = open_wires(
                spec, undo, theirs, reachable=reachable, board=self._board
            )
            argv = qemu_argv(
                program,
                accelerator=self._accelerator,
                resources=spec.resources,
                ssh_port=spec.ssh_port if reachable else None,
                fds=inherited.descriptors,
                board=self._board.with_counter(self._tsc_khz),
                memory=memory,
                incoming=incoming is not None,
            )
            plan = self._plan(argv, spec, inherited)
            own = inherited.descriptors.open()
            own += [part.descriptor for part in (memory, incoming) if part]
            own += [] if inherited.door is None else [inherited.door]
            process = ConfinedProcess.start(
                python_argv(STARTER),
                descriptors=own,
                stdin=filled_pipe(marshal.dumps({**plan}), theirs),
                stderr=inherited.messages,
                background=spec.background,
                enclose=self._enclose and partial(self._enclose, spec.resources),
            )
            undo.pop_all()
            return QemuMachine(
                spec,
                process,
                console,
                wires,
                incoming,
                vmm=vmm,
                room=self.room,
                another=partial(self._start, vmm=vmm),
            )

    def _plan(self, argv: Sequence[str], spec: MachineSpec, inherited: Inherited) -> Plan:
        """Return the starter's plan. Raises SetupIncomplete when the program does not exist."""
        program = shutil.which(argv[0])
        if program is None:
            raise SetupIncomplete(f"There is no QEMU: {argv[0]} cannot be found.")
        uses_kvm = self._accelerator == "kvm"
        group = kvm_group() if uses_kvm else -1
        return {
            "argv": [os.path.realpath(program), *argv[1:]],
            "directory": str(spec.console_log.parent.absolute()),
            "door": -1 if inherited.door is None else inherited.door,
            "uid": -1 if spec.uid is None else spec.uid,
            "groups": [group] if group >= 0 else [],
            "parent": os.getpid(),
            "kvm": uses_kvm,
        }
