# SPDX-License-Identifier: Apache-2.0
"""Boot machines with Cloud Hypervisor; implements `domain.machine.FreezingHypervisor`.

Its machines have the full guest kernel: it gives a guest PCI and no virtio-mmio. Its state names no
version, so that of the program is recorded with a frozen machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from waggle.domain.machine import Capabilities, Resources
from waggle.infra.cloud_hypervisor import configuration
from waggle.infra.cloud_hypervisor.machine import CloudHypervisorMachine
from waggle.infra.vmm.hypervisor import Find, Newest, VmmHypervisor
from waggle.infra.vmm.version import Vmm

Enclose = Callable[[Resources, int], Callable[[], None]]


def _with_room(enclose: Enclose) -> Enclose:
    """Limit a VMM to its memory twice: it writes a copy's whole memory to /run to freeze it.

    It makes that file itself, so it is counted as the machine's, beside the memory in use.
    """

    def enclose_twice(resources: Resources, pid: int) -> Callable[[], None]:
        return enclose(replace(resources, memory_mib=2 * resources.memory_mib), pid)

    return enclose_twice


class CloudHypervisor(VmmHypervisor[CloudHypervisorMachine]):
    """The hypervisor on Cloud Hypervisor; see `vmm.hypervisor.VmmHypervisor`."""

    name = "cloud-hypervisor"
    vmm = Vmm.CLOUD_HYPERVISOR
    machine = CloudHypervisorMachine
    has_initrd = True
    noise = "Failed to release reported memory range"
    capabilities = Capabilities(
        freezes=True, stops_when_full=False, keeps_connections=False, containers=True
    )

    def __init__(
        self,
        newest: Newest,
        find: Find,
        *,
        enclose: Enclose | None = None,
        io_mib: int = 0,
    ) -> None:
        room = None if enclose is None else _with_room(enclose)
        super().__init__(newest, find, jailed=False, enclose=room, io_mib=io_mib)

    def _kind(self) -> str:
        return configuration.kind()

    def _arguments(self, *, boots: bool) -> tuple[str, ...]:
        return configuration.arguments()
