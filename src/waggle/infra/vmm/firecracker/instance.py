# SPDX-License-Identifier: Apache-2.0
"""Models of Firecracker's API for the whole VM and its snapshots, named as in its OpenAPI document.

A `Version` in a field's metadata is the first one that has it.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from waggle.infra.vmm.fields import MAX_LIST, Body, Path, Text
from waggle.infra.vmm.firecracker.devices import (
    V1_13,
    V1_16,
    Balloon,
    Drive,
    EntropyDevice,
    MemoryHotplugConfig,
    MmdsConfig,
    NetworkInterface,
    Pmem,
    Vsock,
)
from waggle.infra.vmm.firecracker.machine import BootSource, CpuConfig, MachineConfiguration
from waggle.infra.vmm.version import Version

V1_12: Final = Version(1, 12)
V1_15_1: Final = Version(1, 15, 1)
V1_17: Final = Version(1, 17)


class InstanceInfo(Body):
    """Which Firecracker this is, and its state; a newer version may have others."""

    app_name: Text
    id: Text
    state: Literal["Not started", "Running", "Paused"] | Text
    vmm_version: Text


class FirecrackerVersion(Body):
    """The version of the running program."""

    firecracker_version: Text


class InstanceActionInfo(Body):
    """InstanceStart is for a VM that has not started, the others for one that has."""

    action_type: Literal["FlushMetrics", "InstanceStart", "SendCtrlAltDel"]


class Vm(Body):
    """The state that the VM should have; one that it has already is no error."""

    state: Literal["Paused", "Resumed"]


class Logger(Body):
    """Where the log goes."""

    level: Literal["Error", "Warning", "Info", "Debug", "Trace", "Off"] | None = None
    log_path: Path | None = None
    show_level: bool | None = None
    show_log_origin: bool | None = None
    module: Text | None = None


class Metrics(Body):
    """Where the metrics go, as lines of JSON."""

    metrics_path: Path
    emit_id: Annotated[bool | None, V1_17] = None
    properties: Annotated[dict[Text, Text] | None, V1_17] = None


class SnapshotCreateParams(Body):
    """Where a snapshot goes: files that Firecracker makes, or writes over."""

    mem_file_path: Path
    snapshot_path: Path
    snapshot_type: Literal["Full", "Diff"] | None = None


class MemoryBackend(Body):
    """Where memory comes from: a file, or the socket of a process that handles page faults."""

    backend_type: Literal["File", "Uffd"]
    backend_path: Path


class NetworkOverride(Body):
    """Another TAP device for a network interface of the snapshot."""

    iface_id: Text
    host_dev_name: Text


class VsockOverride(Body):
    """Another socket for the vsock device of the snapshot."""

    uds_path: Path


class SnapshotLoadParams(Body):
    """Which snapshot to load; either `mem_backend` or the deprecated `mem_file_path`.

    `enable_diff_snapshots` is the name of `track_dirty_pages` before 1.13. `clock_realtime` is in
    1.14.4 as well, but not in 1.15.0.
    """

    enable_diff_snapshots: bool | None = None
    track_dirty_pages: Annotated[bool | None, V1_13] = None
    mem_file_path: Path | None = None
    mem_backend: MemoryBackend | None = None
    snapshot_path: Path
    resume_vm: bool | None = None
    network_overrides: Annotated[
        Annotated[list[NetworkOverride], Field(max_length=MAX_LIST)] | None, V1_12
    ] = None
    vsock_override: Annotated[VsockOverride | None, V1_16] = None
    clock_realtime: Annotated[bool | None, V1_15_1] = None
    huge_pages: Annotated[
        Literal["Snapshot", "None", "Transparent", "2M"] | None,
        V1_17,
    ] = None


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


class FullVmConfiguration(Body):
    """All that is configured; of a VM from a snapshot, parts are empty."""

    model_config = ConfigDict(alias_generator=_hyphens, populate_by_name=True)

    balloon: Balloon | None = None
    drives: Annotated[list[Drive], Field(max_length=MAX_LIST)] | None = None
    boot_source: BootSource | None = None
    cpu_config: CpuConfig | None = None
    logger: Logger | None = None
    machine_config: MachineConfiguration | None = None
    metrics: Metrics | None = None
    memory_hotplug: MemoryHotplugConfig | None = None
    mmds_config: MmdsConfig | None = None
    network_interfaces: Annotated[list[NetworkInterface], Field(max_length=MAX_LIST)] | None = None
    pmem: Annotated[list[Pmem], Field(max_length=MAX_LIST)] | None = None
    vsock: Vsock | None = None
    entropy: EntropyDevice | None = None
