# SPDX-License-Identifier: Apache-2.0
"""Boot machines with Cloud Hypervisor; implements `domain.machine.FreezingHypervisor`.

Its machines have the full guest kernel: it gives a guest PCI and no virtio-mmio. Its state names no
version, so that of the program is recorded with a frozen machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from waggle.domain.machine import Capabilities, MachineSpec, Resources
from waggle.infra.cloud_hypervisor import configuration
from waggle.infra.cloud_hypervisor.machine import CloudHypervisorMachine
from waggle.infra.guest.console import Console
from waggle.infra.guest.frozen import Origin
from waggle.infra.vmm.binaries import Binary
from waggle.infra.vmm.hypervisor import Find, VmmHypervisor
from waggle.infra.vmm.machine import Program
from waggle.infra.vmm.process import GuardedProcess
from waggle.infra.vmm.version import Vmm
from waggle.infra.vmm.wires import Wires

Enclose = Callable[[Resources, int], Callable[[], None]]


def _with_room(enclose: Enclose) -> Enclose:
    """Limit a VMM to its memory twice: it writes a copy's whole memory to /run to freeze it.

    It makes that file itself, so it is counted as the machine's, beside the memory in use.
    """

    def enclose_twice(resources: Resources, pid: int) -> Callable[[], None]:
        return enclose(replace(resources, memory_mib=2 * resources.memory_mib), pid)

    return enclose_twice


class CloudHypervisor(VmmHypervisor[CloudHypervisorMachine]):
    """The hypervisor on Cloud Hypervisor; see `vmm.hypervisor.VmmHypervisor`.

    `io_mib` is MiB a second of a scratch disk in each direction, 0 for no limit.
    """

    name = "cloud-hypervisor"
    vmm = Vmm.CLOUD_HYPERVISOR
    has_initrd = True
    capabilities = Capabilities(
        freezes=True, stops_when_full=False, keeps_connections=False, containers=True
    )

    def __init__(
        self,
        binary: Binary,
        find: Find,
        *,
        enclose: Enclose | None = None,
        io_mib: int = 0,
    ) -> None:
        room = None if enclose is None else _with_room(enclose)
        super().__init__(binary, find, jailed=False, enclose=room)
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
    ) -> CloudHypervisorMachine:
        return CloudHypervisorMachine(
            spec, process, console, wires, program, origin, io_mib=self._io_mib
        )
