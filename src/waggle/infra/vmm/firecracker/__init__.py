# SPDX-License-Identifier: Apache-2.0
"""Firecracker's API as data, from 1.10 on: a table of all its methods, and their models.

From its OpenAPI document (names, models), its request parser (methods that the document lacks) and
its `rpc_interface.rs` (states). `waggle.infra.vmm.client` sends them; adapters use them as
`firecracker.PUT_GUEST_BOOT_SOURCE` with `firecracker.BootSource`. A refusal changes nothing, except
that Firecracker ends after a snapshot that it could not load.
"""

from __future__ import annotations

from types import NoneType
from typing import Final

from waggle.infra.vmm.endpoint import Endpoint, table
from waggle.infra.vmm.firecracker.devices import (
    V1_14,
    V1_16,
    Balloon,
    BalloonHintingStatus,
    BalloonStartCmd,
    BalloonStats,
    BalloonStatsUpdate,
    BalloonUpdate,
    Drive,
    EntropyDevice,
    MemoryHotplugConfig,
    MemoryHotplugSizeUpdate,
    MemoryHotplugStatus,
    MmdsConfig,
    MmdsContentsObject,
    NetworkInterface,
    PartialDrive,
    PartialNetworkInterface,
    PartialPmem,
    Pmem,
    SerialDevice,
    Vsock,
)
from waggle.infra.vmm.firecracker.devices import RateLimiter as RateLimiter
from waggle.infra.vmm.firecracker.devices import TokenBucket as TokenBucket
from waggle.infra.vmm.firecracker.instance import (
    FirecrackerVersion,
    FullVmConfiguration,
    InstanceActionInfo,
    InstanceInfo,
    Logger,
    Metrics,
    SnapshotCreateParams,
    SnapshotLoadParams,
    Vm,
)
from waggle.infra.vmm.firecracker.instance import MemoryBackend as MemoryBackend
from waggle.infra.vmm.firecracker.instance import NetworkOverride as NetworkOverride
from waggle.infra.vmm.firecracker.instance import VsockOverride as VsockOverride
from waggle.infra.vmm.firecracker.machine import (
    BootSource,
    CpuConfig,
    MachineConfiguration,
    PartialMachineConfiguration,
)
from waggle.infra.vmm.version import OLDEST, Vmm

BEFORE: Final = "Not started"
PAUSED: Final = "Paused"
AFTER: Final = "Running, Paused"
ALWAYS: Final = "Not started, Running, Paused"

_OLDEST: Final = OLDEST[Vmm.FIRECRACKER]
_NO: Final = NoneType

DESCRIBE_INSTANCE: Final = Endpoint(
    "describeInstance", "GET", "/", _NO, InstanceInfo, ALWAYS, _OLDEST
)
GET_FIRECRACKER_VERSION: Final = Endpoint(
    "getFirecrackerVersion", "GET", "/version", _NO, FirecrackerVersion, ALWAYS, _OLDEST
)
GET_EXPORT_VM_CONFIG: Final = Endpoint(
    "getExportVmConfig", "GET", "/vm/config", _NO, FullVmConfiguration, ALWAYS, _OLDEST
)
PUT_LOGGER: Final = Endpoint("putLogger", "PUT", "/logger", Logger, _NO, BEFORE, _OLDEST)
PUT_METRICS: Final = Endpoint("putMetrics", "PUT", "/metrics", Metrics, _NO, BEFORE, _OLDEST)
"""Once only."""

PUT_GUEST_BOOT_SOURCE: Final = Endpoint(
    "putGuestBootSource", "PUT", "/boot-source", BootSource, _NO, BEFORE, _OLDEST
)
GET_MACHINE_CONFIGURATION: Final = Endpoint(
    "getMachineConfiguration", "GET", "/machine-config", _NO, MachineConfiguration, ALWAYS, _OLDEST
)
PUT_MACHINE_CONFIGURATION: Final = Endpoint(
    "putMachineConfiguration", "PUT", "/machine-config", MachineConfiguration, _NO, BEFORE, _OLDEST
)
PATCH_MACHINE_CONFIGURATION: Final = Endpoint(
    "patchMachineConfiguration",
    "PATCH",
    "/machine-config",
    PartialMachineConfiguration,
    _NO,
    BEFORE,
    _OLDEST,
)
PUT_CPU_CONFIGURATION: Final = Endpoint(
    "putCpuConfiguration", "PUT", "/cpu-config", CpuConfig, _NO, BEFORE, _OLDEST
)

PUT_GUEST_DRIVE_BY_ID: Final = Endpoint(
    "putGuestDriveByID", "PUT", "/drives/{drive_id}", Drive, _NO, BEFORE, _OLDEST
)
"""From 1.16 on after the start as well, where Firecracker runs with `--enable-pci`."""
PATCH_GUEST_DRIVE_BY_ID: Final = Endpoint(
    "patchGuestDriveByID", "PATCH", "/drives/{drive_id}", PartialDrive, _NO, AFTER, _OLDEST
)
DELETE_GUEST_DRIVE_BY_ID: Final = Endpoint(
    "deleteGuestDriveByID", "DELETE", "/drives/{drive_id}", _NO, _NO, AFTER, V1_16
)
"""Not in the OpenAPI document. Needs `--enable-pci`, and the guest has to remove it before."""
PUT_GUEST_PMEM_BY_ID: Final = Endpoint(
    "putGuestPmemByID", "PUT", "/pmem/{id}", Pmem, _NO, BEFORE, V1_14
)
"""From 1.16 on after the start as well, where Firecracker runs with `--enable-pci`."""
PATCH_GUEST_PMEM_BY_ID: Final = Endpoint(
    "patchGuestPmemByID", "PATCH", "/pmem/{id}", PartialPmem, _NO, AFTER, V1_16
)
DELETE_GUEST_PMEM_BY_ID: Final = Endpoint(
    "deleteGuestPmemByID", "DELETE", "/pmem/{id}", _NO, _NO, AFTER, V1_16
)
"""Not in the OpenAPI document. Needs `--enable-pci`, and the guest has to remove it before."""
PUT_GUEST_NETWORK_INTERFACE_BY_ID: Final = Endpoint(
    "putGuestNetworkInterfaceByID",
    "PUT",
    "/network-interfaces/{iface_id}",
    NetworkInterface,
    _NO,
    BEFORE,
    _OLDEST,
)
"""From 1.16 on after the start as well, where Firecracker runs with `--enable-pci`."""
PATCH_GUEST_NETWORK_INTERFACE_BY_ID: Final = Endpoint(
    "patchGuestNetworkInterfaceByID",
    "PATCH",
    "/network-interfaces/{iface_id}",
    PartialNetworkInterface,
    _NO,
    AFTER,
    _OLDEST,
)
DELETE_GUEST_NETWORK_INTERFACE_BY_ID: Final = Endpoint(
    "deleteGuestNetworkInterfaceByID",
    "DELETE",
    "/network-interfaces/{iface_id}",
    _NO,
    _NO,
    AFTER,
    V1_16,
)
"""Not in the OpenAPI document. Needs `--enable-pci`, and the guest has to remove it before."""
PUT_GUEST_VSOCK: Final = Endpoint("putGuestVsock", "PUT", "/vsock", Vsock, _NO, BEFORE, _OLDEST)
PUT_ENTROPY_DEVICE: Final = Endpoint(
    "putEntropyDevice", "PUT", "/entropy", EntropyDevice, _NO, BEFORE, _OLDEST
)
PUT_SERIAL_DEVICE: Final = Endpoint(
    "putSerialDevice", "PUT", "/serial", SerialDevice, _NO, BEFORE, V1_14
)

DESCRIBE_BALLOON_CONFIG: Final = Endpoint(
    "describeBalloonConfig", "GET", "/balloon", _NO, Balloon, ALWAYS, _OLDEST
)
PUT_BALLOON: Final = Endpoint("putBalloon", "PUT", "/balloon", Balloon, _NO, BEFORE, _OLDEST)
PATCH_BALLOON: Final = Endpoint(
    "patchBalloon", "PATCH", "/balloon", BalloonUpdate, _NO, AFTER, _OLDEST
)
DESCRIBE_BALLOON_STATS: Final = Endpoint(
    "describeBalloonStats", "GET", "/balloon/statistics", _NO, BalloonStats, AFTER, _OLDEST
)
PATCH_BALLOON_STATS_INTERVAL: Final = Endpoint(
    "patchBalloonStatsInterval",
    "PATCH",
    "/balloon/statistics",
    BalloonStatsUpdate,
    _NO,
    AFTER,
    _OLDEST,
)
START_BALLOON_HINTING: Final = Endpoint(
    "startBalloonHinting", "PATCH", "/balloon/hinting/start", BalloonStartCmd, _NO, AFTER, V1_14
)
DESCRIBE_BALLOON_HINTING: Final = Endpoint(
    "describeBalloonHinting",
    "GET",
    "/balloon/hinting/status",
    _NO,
    BalloonHintingStatus,
    AFTER,
    V1_14,
)
STOP_BALLOON_HINTING: Final = Endpoint(
    "stopBalloonHinting", "PATCH", "/balloon/hinting/stop", _NO, _NO, AFTER, V1_14
)
PUT_MEMORY_HOTPLUG: Final = Endpoint(
    "putMemoryHotplug", "PUT", "/hotplug/memory", MemoryHotplugConfig, _NO, BEFORE, V1_14
)
PATCH_MEMORY_HOTPLUG: Final = Endpoint(
    "patchMemoryHotplug", "PATCH", "/hotplug/memory", MemoryHotplugSizeUpdate, _NO, AFTER, V1_14
)
GET_MEMORY_HOTPLUG: Final = Endpoint(
    "getMemoryHotplug", "GET", "/hotplug/memory", _NO, MemoryHotplugStatus, AFTER, V1_14
)

PUT_MMDS_CONFIG: Final = Endpoint(
    "putMmdsConfig", "PUT", "/mmds/config", MmdsConfig, _NO, BEFORE, _OLDEST
)
GET_MMDS: Final = Endpoint("getMmds", "GET", "/mmds", _NO, MmdsContentsObject, ALWAYS, _OLDEST)
PUT_MMDS: Final = Endpoint("putMmds", "PUT", "/mmds", MmdsContentsObject, _NO, ALWAYS, _OLDEST)
PATCH_MMDS: Final = Endpoint(
    "patchMmds", "PATCH", "/mmds", MmdsContentsObject, _NO, ALWAYS, _OLDEST
)

CREATE_SYNC_ACTION: Final = Endpoint(
    "createSyncAction", "PUT", "/actions", InstanceActionInfo, _NO, ALWAYS, _OLDEST
)
"""InstanceStart before the start, the others after it."""
PATCH_VM: Final = Endpoint("patchVm", "PATCH", "/vm", Vm, _NO, AFTER, _OLDEST)
CREATE_SNAPSHOT: Final = Endpoint(
    "createSnapshot", "PUT", "/snapshot/create", SnapshotCreateParams, _NO, PAUSED, _OLDEST
)
LOAD_SNAPSHOT: Final = Endpoint(
    "loadSnapshot", "PUT", "/snapshot/load", SnapshotLoadParams, _NO, BEFORE, _OLDEST
)
"""Nothing but logger and metrics may be configured. Firecracker ends if it fails."""

ENDPOINTS: Final = table([*globals().values()])
"""The whole table."""
