# SPDX-License-Identifier: Apache-2.0
"""A Cloud Hypervisor in this process, see `tests.infra.vmm.pretended`: its states and calls.

A snapshot that it writes is a state of a few bytes and, of a copy, memory full of zeros.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.infra.vmm.pretended import MIB, Guest, machine_on
from tests.infra.vmm.pretended import Pretended as On
from tests.support.vmm_server import Call, Reply, causes, says

from waggle.infra.cloud_hypervisor.machine import CloudHypervisorMachine
from waggle.infra.guest.frozen import Origin
from waggle.infra.vmm import cloud_hypervisor as api
from waggle.infra.vmm.machine import Program
from waggle.infra.vmm.version import Version

VERSION = Version(53, 0, 0)
NAME = f"{VERSION} {'a' * 64}"
STATE = b'{"snapshots":{"memory-manager":{"snapshot_data":{"state":"{\\"memory_ranges\\":{}}"}}}}'
_CHANGES = {
    "vm.boot": "Running",
    "vm.pause": "Paused",
    "vm.resume": "Running",
    "vm.create": "Created",
    "vm.restore": "Paused",
}


@dataclass
class Vmm(Guest):
    """Its state, and what it answers instead, by method; `obeys` even if that is no answer."""

    state: str = api.NONE
    answers: dict[str, Reply] = field(default_factory=dict[str, Reply])
    obeys: bool = False
    config: api.VmConfig | None = None

    def __call__(self, call: Call) -> Reply:
        name = call.endpoint.name
        if name in self.answers and not self.obeys:
            return self.answers[name]
        if self.state not in call.endpoint.legal.split(", "):
            return causes(f"VM is {self.state}")
        self.state = _CHANGES.get(name, self.state)
        match call.request:
            case api.VmConfig():
                self.config = call.request
            case api.VmSnapshotConfig():
                self._write()
            case _:
                pass
        if name in ("vm.boot", "vm.restore"):
            self.talk()
        if name == "vm.info" and self.config is not None:
            return says(
                f'{{"config":{self.config.model_dump_json(exclude_none=True)},'
                f'"state":"{self.state}"}}'
            )
        return self.answers.get(name, Reply())

    def _write(self) -> None:
        snapshot = self.directory / "snapshot"
        (snapshot / "state.json").write_bytes(STATE)
        if self.config is None:  # a copy
            (snapshot / "memory-ranges").write_bytes(bytes(MIB << 20))


Pretended = On[CloudHypervisorMachine, Vmm]


def pretended(
    directory: Path, origin: Origin | None = None
) -> AbstractAsyncContextManager[Pretended]:
    """Return a machine on a pretended Cloud Hypervisor, for the length of a block."""
    program = Program(NAME, VERSION)
    return machine_on(CloudHypervisorMachine, Vmm, api.ENDPOINTS, program, directory, origin)
