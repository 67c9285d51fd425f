# SPDX-License-Identifier: Apache-2.0
"""Boot machines with libkrun; implements `domain.machine.Hypervisor`.

Starts one runner process per machine, since libkrun takes over the process that starts a machine,
then waits for the first of: the guest's ready line, the runner's end, a panic, the deadline.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from waggle.domain.environment import Resources
from waggle.domain.machine import GUEST_SSH_PORT, MachineSpec
from waggle.infra.guest.boot import until_booted
from waggle.infra.guest.console import Console
from waggle.infra.guest.link import AGENT_PORT, KERNEL_ARGUMENTS, RENEWAL_PORT
from waggle.infra.krun.configuration import Configuration, encode
from waggle.infra.krun.machine import KrunMachine
from waggle.infra.krun.wires import SOCKET, Inherited, Wires, open_wires
from waggle.infra.shared.confined import ConfinedProcess, filled_pipe, python_argv

COMMAND_LINE = f"{KERNEL_ARGUMENTS} reboot=k no-kvmapf"
"""libkrun adds nothing but its devices to it."""
MAX_DESCRIPTORS = 4096
RUNNER = "waggle.infra.krun.runner"
_KVM = Path("/dev/kvm")


class KrunHypervisor:
    """`library` is libkrun's path or name; that it is usable was found out before.

    `enclose` limits what the process of a machine, by its number, may use; see `infra.confined`.
    """

    name = "krun"

    def __init__(
        self,
        library: str,
        *,
        enclose: Callable[[Resources, int], Callable[[], None]] | None = None,
    ) -> None:
        self._library = library
        self._enclose = enclose

    async def boot(self, spec: MachineSpec) -> KrunMachine:
        """Boot a machine; see `domain.machine.Hypervisor.boot`. Raises BootFailed or PortTaken."""
        machine = self._start(spec)
        await until_booted(machine, spec.boot_timeout)
        return machine

    def _start(self, spec: MachineSpec) -> KrunMachine:
        """Open everything, start the runner, close what only the runner needs."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            console = Console(spec.console_log)
            undo.callback(console.close)
            wires, inherited = open_wires(spec, undo, theirs)
            told = encode(self._configuration(spec, wires, inherited))
            process = ConfinedProcess.start(
                python_argv(RUNNER),
                descriptors=(
                    *(inherited.kernel, inherited.kit, inherited.image, inherited.scratch),
                    *(inherited.identity, inherited.console, inherited.agent, inherited.renewal),
                    wires.directory,
                ),
                stdin=filled_pipe(told, theirs),
                stderr=inherited.messages,
                max_descriptors=MAX_DESCRIPTORS,
                background=spec.background,
                enclose=self._enclose and partial(self._enclose, spec.resources),
            )
            undo.pop_all()
            return KrunMachine(process, console, wires)

    def _configuration(
        self, spec: MachineSpec, wires: Wires, inherited: Inherited
    ) -> Configuration:
        return Configuration(
            library=self._library,
            kernel_fd=inherited.kernel,
            command_line=COMMAND_LINE,
            cpus=spec.resources.cpus,
            memory_mib=spec.resources.memory_mib,
            kit_fd=inherited.kit,
            image_fd=inherited.image,
            scratch_fd=inherited.scratch,
            identity_fd=inherited.identity,
            console_fd=inherited.console,
            agent_port=AGENT_PORT,
            agent_fd=inherited.agent,
            renewal_port=RENEWAL_PORT,
            renewal_fd=inherited.renewal,
            ssh_port=GUEST_SSH_PORT,
            socket=SOCKET,
            directory=str(wires.path),
            directory_fd=wires.directory,
            uid=-1 if spec.uid is None else spec.uid,
            kvm_gid=_kvm_group(),
            parent=os.getpid(),
        )


def _kvm_group() -> int:
    """The group that may use /dev/kvm; -1 when no group helps."""
    with contextlib.suppress(OSError):
        device = _KVM.stat()
        if stat.S_IMODE(device.st_mode) & 0o060:
            return device.st_gid
    return -1
