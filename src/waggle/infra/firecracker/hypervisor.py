# SPDX-License-Identifier: Apache-2.0
"""Boot machines with Firecracker; implements `domain.machine.FreezingHypervisor`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from waggle.domain.machine import Capabilities, Resources
from waggle.infra.firecracker import configuration
from waggle.infra.firecracker.machine import FirecrackerMachine
from waggle.infra.guest.frozen import FrozenFiles
from waggle.infra.vmm.hypervisor import VmmHypervisor
from waggle.infra.vmm.version import Version, Vmm


class FirecrackerHypervisor(VmmHypervisor[FirecrackerMachine]):
    """The hypervisor on Firecracker; see `vmm.hypervisor.VmmHypervisor`."""

    name = "firecracker"
    vmm = Vmm.FIRECRACKER
    machine = FirecrackerMachine
    capabilities = Capabilities(freezes=True, stops_when_full=False, keeps_connections=False)

    def load(
        self, directory: Path, fingerprint: Mapping[str, str], *, alone: bool = False
    ) -> FrozenFiles:
        """See `domain.machine.FreezingHypervisor.load`. One machine `alone` maps the file itself.

        What that machine changes is its own: the file changes only while the machine is frozen.
        """
        return FrozenFiles.load(directory, self._maker(fingerprint), on_disk=alone)

    def _kind(self) -> str:
        return configuration.kind()

    def _arguments(self, *, boots: bool) -> tuple[str, ...]:
        return configuration.arguments(boots=boots)

    def _texts(self, resources: Resources, version: Version) -> dict[str, str]:
        return configuration.texts(resources, version, self._io_mib)
