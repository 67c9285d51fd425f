# SPDX-License-Identifier: Apache-2.0
"""Boot machines with Firecracker; implements `domain.machine.FreezingHypervisor`."""

from __future__ import annotations

from waggle.domain.machine import Capabilities
from waggle.infra.firecracker import configuration
from waggle.infra.firecracker.machine import FirecrackerMachine
from waggle.infra.vmm.hypervisor import VmmHypervisor
from waggle.infra.vmm.version import Vmm


class FirecrackerHypervisor(VmmHypervisor[FirecrackerMachine]):
    """The hypervisor on Firecracker; see `vmm.hypervisor.VmmHypervisor`."""

    name = "firecracker"
    vmm = Vmm.FIRECRACKER
    machine = FirecrackerMachine
    capabilities = Capabilities(freezes=True, stops_when_full=False, keeps_connections=False)

    def _kind(self) -> str:
        return configuration.kind()

    def _arguments(self) -> tuple[str, ...]:
        return configuration.arguments()
