# SPDX-License-Identifier: Apache-2.0
"""Boot machines with Firecracker; implements `domain.machine.FreezingHypervisor`."""

from __future__ import annotations

from collections.abc import Callable

from waggle.domain.machine import Capabilities, MachineSpec, Resources
from waggle.infra.firecracker import configuration
from waggle.infra.firecracker.machine import FirecrackerMachine
from waggle.infra.guest.console import Console
from waggle.infra.guest.frozen import Origin
from waggle.infra.vmm.binaries import Binary
from waggle.infra.vmm.hypervisor import Find, VmmHypervisor
from waggle.infra.vmm.machine import Program
from waggle.infra.vmm.process import GuardedProcess
from waggle.infra.vmm.version import Vmm
from waggle.infra.vmm.wires import Wires


class FirecrackerHypervisor(VmmHypervisor[FirecrackerMachine]):
    """The hypervisor on Firecracker; see `vmm.hypervisor.VmmHypervisor`.

    `io_mib` is MiB a second of a scratch disk in each direction, 0 for no limit.
    """

    name = "firecracker"
    vmm = Vmm.FIRECRACKER
    capabilities = Capabilities(freezes=True, stops_when_full=False, keeps_connections=False)

    def __init__(
        self,
        binary: Binary,
        find: Find,
        *,
        jailed: bool,
        enclose: Callable[[Resources, int], Callable[[], None]] | None = None,
        io_mib: int = 0,
    ) -> None:
        super().__init__(binary, find, jailed=jailed, enclose=enclose)
        self._io_mib = io_mib

    def _kind(self) -> str:
        return configuration.kind()

    def _arguments(self) -> tuple[str, ...]:
        return configuration.arguments()

    def _machine(
        self,
        spec: MachineSpec,
        process: GuardedProcess,
        console: Console,
        wires: Wires,
        program: Program,
        origin: Origin | None,
    ) -> FirecrackerMachine:
        return FirecrackerMachine(
            spec, process, console, wires, program, origin, io_mib=self._io_mib
        )
