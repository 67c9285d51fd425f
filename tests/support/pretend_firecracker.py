# SPDX-License-Identifier: Apache-2.0
"""A pretended Firecracker: its states, and which calls are legal in them, for `vmm_server.serving`.

It refuses in the words of version 1.12.1, as recorded in tests/infra/vmm/recorded. A snapshot that
it creates is two small files, and it loads only such.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.vmm_server import Call, Reply, VmmServer, fault, says, serving

from waggle.infra.vmm import firecracker as fc
from waggle.infra.vmm.endpoint import Endpoint
from waggle.infra.vmm.version import Version

RECORDED = Version(1, 12, 1)
STATE = b"the state of a pretended Firecracker"
MEMORY = b"its memory"
_BEFORE = "The requested operation is not supported before starting the microVM."
_AFTER = "The requested operation is not supported after starting the microVM."
_RUNNING = (
    "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore "
    "unavailable while running"
)
_NO_KERNEL = "Start microvm error: Cannot start microvm without kernel configuration."
_CONFIGURED = (
    "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific "
    "resources."
)
WORDS = (_BEFORE, _AFTER, _RUNNING, _NO_KERNEL, _CONFIGURED)
"""All reasons that depend on its state."""
_FREE = {"putLogger", "putMetrics", "putMmds", "patchMmds"}
"""What may be set before a snapshot is loaded."""


class PretendFirecracker:
    """Call it with a `Call`. `answers` replaces what it says to a method, by the method's name."""

    def __init__(self, version: Version = RECORDED) -> None:
        self.version = version
        self.state = "Not started"
        self.set: dict[tuple[str, str], object] = {}
        """What was configured, by the name of the method and the item."""
        self.answers: dict[str, Reply] = {}

    def __call__(self, call: Call) -> Reply:
        endpoint = call.endpoint
        if endpoint.name in self.answers:
            return self.answers[endpoint.name]
        if endpoint.since > self.version:
            where = endpoint.path.split("/")[1]
            return fault(f"Invalid request method and/or path: {endpoint.verb} {where}.")
        if (refusal := self._refusal(endpoint)) is not None:
            return refusal
        match call.request:
            case fc.InstanceActionInfo(action_type=action):
                return self._act(action)
            case fc.Vm(state=state):
                self.state = "Running" if state == "Resumed" else "Paused"
            case fc.SnapshotCreateParams():
                Path(call.request.snapshot_path).write_bytes(STATE)
                Path(call.request.mem_file_path).write_bytes(MEMORY)
            case fc.SnapshotLoadParams():
                return self._load(call.request)
            case None:
                return self._shown(endpoint)
            case _:
                self.set[(endpoint.name, call.item)] = call.request
        return Reply()

    def _refusal(self, endpoint: Endpoint[Any, Any]) -> Reply | None:
        if self.state in endpoint.legal.split(", "):
            return None
        if endpoint.legal == fc.PAUSED and self.state == "Running":
            return fault(_RUNNING)
        return fault(_BEFORE if self.state == "Not started" else _AFTER)

    def _act(self, action: str) -> Reply:
        if action == "InstanceStart":
            if self.state != "Not started":
                return fault(_AFTER)
            if ("putGuestBootSource", "") not in self.set:
                return fault(_NO_KERNEL)
            self.state = "Running"
        elif self.state == "Not started":
            return fault(_BEFORE)
        return Reply()

    def _load(self, request: fc.SnapshotLoadParams) -> Reply:
        if any(name not in _FREE for name, _ in self.set):
            return fault(_CONFIGURED)
        memory = request.mem_backend.backend_path if request.mem_backend else request.mem_file_path
        assert memory is not None
        if Path(request.snapshot_path).read_bytes() != STATE or not Path(memory).exists():
            return fault("Load snapshot error: Failed to restore from snapshot: it is none")
        self.state = "Running" if request.resume_vm else "Paused"
        return Reply()

    def _shown(self, endpoint: Endpoint[Any, Any]) -> Reply:
        version = str(self.version)
        match endpoint.name:
            case "describeInstance":
                info = {"app_name": "Firecracker", "id": "pretended", "vmm_version": version}
                return says(fc.InstanceInfo.model_validate({**info, "state": self.state}))
            case "getFirecrackerVersion":
                return says(fc.FirecrackerVersion(firecracker_version=version))
            case "getMachineConfiguration":
                kept = self.set.get(("putMachineConfiguration", ""))
                default = fc.MachineConfiguration(mem_size_mib=128, vcpu_count=1)
                return says(kept if isinstance(kept, fc.MachineConfiguration) else default)
            case "getExportVmConfig":
                drives = [one for one in self.set.values() if isinstance(one, fc.Drive)]
                return says(fc.FullVmConfiguration(drives=drives))
            case "describeBalloonConfig":
                kept = self.set.get(("putBalloon", ""))
                none = fault("Balloon config error: No balloon device found.")
                return says(kept) if isinstance(kept, fc.Balloon) else none
            case "getMmds":
                kept = self.set.get(("putMmds", ""))
                return says(kept if isinstance(kept, fc.MmdsContentsObject) else "{}")
            case _:
                return fault(f"A pretended Firecracker does not know {endpoint.name}.")


@asynccontextmanager
async def pretending(
    directory: Path, version: Version = RECORDED
) -> AsyncGenerator[tuple[PretendFirecracker, VmmServer]]:
    """Serve a pretended Firecracker at `directory/api.sock`."""
    made = PretendFirecracker(version)
    async with serving(directory, fc.ENDPOINTS, made) as server:
        yield made, server
