# SPDX-License-Identifier: Apache-2.0
"""A Cloud Hypervisor in this process: its API; its guest and its process are Firecracker's here.

A snapshot that it writes is a state of a few bytes and, of a copy, memory full of zeros.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tests.infra.firecracker.pretended import MIB, PretendedProcess, spec_in, wires_of
from tests.infra.firecracker.pretended import Vmm as Guest
from tests.support.vmm_server import Call, Reply, VmmServer, causes, listening, says, serving

from waggle.domain.machine import MachineSpec
from waggle.infra.cloud_hypervisor.machine import CloudHypervisorMachine
from waggle.infra.guest.console import Console
from waggle.infra.guest.frozen import Origin
from waggle.infra.vmm import cloud_hypervisor as api
from waggle.infra.vmm.machine import Program
from waggle.infra.vmm.process import GuardedProcess
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
class Vmm:
    """Its state, and what it answers instead, by method; `obeys` even if that is no answer."""

    directory: Path
    guest: Guest
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
            self.guest.talk()
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


@dataclass(slots=True)
class Pretended:
    """A machine that is not connected yet, and what stands for its VMM."""

    machine: CloudHypervisorMachine
    vmm: Vmm
    server: VmmServer
    process: PretendedProcess
    spec: MachineSpec

    async def boot(self) -> str | None:
        """Connect and wait for the guest, as `until_booted` does."""
        await self.machine.connect()
        return await self.machine.until_ready()


@asynccontextmanager
async def pretended(directory: Path, origin: Origin | None = None) -> AsyncGenerator[Pretended]:
    """Yield a machine on a pretended Cloud Hypervisor; it is stopped at the end at the latest."""
    run = directory / "run"
    run.mkdir()
    spec = spec_in(directory)
    wires, messages = wires_of(spec)
    process = PretendedProcess(run, messages)
    guest = Guest(run, process)
    vmm = Vmm(run, guest)
    machine = CloudHypervisorMachine(
        spec,
        cast("GuardedProcess", process),
        Console(spec.console_log),
        wires,
        Program(NAME, VERSION),
        origin,
    )
    async with listening(run / "vsock", guest.vsock), serving(run, api.ENDPOINTS, vmm) as server:
        try:
            yield Pretended(machine, vmm, server, process, spec)
        finally:
            await machine.stop()
