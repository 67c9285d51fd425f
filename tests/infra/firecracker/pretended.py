# SPDX-License-Identifier: Apache-2.0
"""A Firecracker in this process, see `tests.infra.vmm.pretended`: what its snapshots are."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.infra.vmm.pretended import Guest, machine_on
from tests.infra.vmm.pretended import Pretended as On
from tests.support.pretend_firecracker import RECORDED, STATE, PretendFirecracker
from tests.support.vmm_server import Call, Reply

from waggle.infra.firecracker.machine import FirecrackerMachine
from waggle.infra.guest.frozen import Origin
from waggle.infra.vmm import firecracker as api
from waggle.infra.vmm.machine import Program

NAME = f"{RECORDED} {'a' * 64}"


@dataclass
class Vmm(PretendFirecracker, Guest):
    """A pretended Firecracker. `writes` are what it has changed in memory: offsets and pages."""

    writes: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def __post_init__(self) -> None:
        super().__init__()

    def __call__(self, call: Call) -> Reply:
        match call.request:
            case api.SnapshotCreateParams() if call.endpoint.name not in self.answers:
                if self.state != "Paused":
                    return super().__call__(call)
                return self._write(call.request)
            case api.SnapshotLoadParams():
                there = {"snapshot_path": str(self._at(call.request.snapshot_path))}
                moved = call.request.model_copy(update=there)
                reply = super().__call__(replace(call, request=moved))
            case _:
                reply = super().__call__(call)
        if call.endpoint.name == "loadSnapshot" and reply.status < 300:
            self.talk()
        return reply

    def begin(self) -> None:
        """Boot what its files configure."""
        if self.process.is_alive:
            self.state = "Running"
            self.talk()

    def _at(self, path: str) -> Path:
        assert path.startswith("/run/")
        return self.directory / path.removeprefix("/run/")

    def _write(self, request: api.SnapshotCreateParams) -> Reply:
        self._at(request.snapshot_path).write_bytes(STATE)
        with self._at(request.mem_file_path).open("r+b") as memory:
            for at, page in self.writes.items():
                memory.seek(at)
                memory.write(page)
        if request.snapshot_type == "Diff":
            self.writes.clear()
        return Reply()


Pretended = On[FirecrackerMachine, Vmm]


def pretended(
    directory: Path, origin: Origin | None = None, *, io_mib: int = 0
) -> AbstractAsyncContextManager[Pretended]:
    """Return a machine on a pretended Firecracker, for the length of a block."""
    program = Program(NAME, RECORDED)
    return machine_on(FirecrackerMachine, Vmm, api.ENDPOINTS, program, directory, origin, io_mib)
