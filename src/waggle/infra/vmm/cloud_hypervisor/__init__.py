# SPDX-License-Identifier: Apache-2.0
"""Cloud Hypervisor's API as data, from 48 on: a table of all its methods, and their models.

From its OpenAPI document (models), its HTTP routes (names, versions) and `vmm/src/lib.rs` (states).
`waggle.infra.vmm.client` sends them; adapters use them as `cloud_hypervisor.VM_CREATE` with
`cloud_hypervisor.VmConfig`. The document has operation ids for some methods only, so all are named
by their routes. While a VM migrates, everything but `vmm.ping` and `vm.info` is refused.
"""

from __future__ import annotations

from types import NoneType
from typing import Final

from waggle.infra.vmm.cloud_hypervisor.calls import (
    ReceiveMigrationData,
    RestoreConfig,
    SendMigrationData,
    VmCoredumpData,
    VmCounters,
    VmInfo,
    VmmPingResponse,
    VmRemoveDevice,
    VmResize,
    VmResizeDisk,
    VmResizeZone,
    VmSnapshotConfig,
)
from waggle.infra.vmm.cloud_hypervisor.devices import (
    V50,
    V52,
    DeviceConfig,
    DiskConfig,
    FsConfig,
    GenericVhostUserConfig,
    NetConfig,
    PciDeviceInfo,
    PmemConfig,
    VdpaConfig,
    VmAddUserDevice,
    VsockConfig,
)
from waggle.infra.vmm.cloud_hypervisor.devices import BalloonConfig as BalloonConfig
from waggle.infra.vmm.cloud_hypervisor.devices import ConsoleConfig as ConsoleConfig
from waggle.infra.vmm.cloud_hypervisor.devices import RateLimiterConfig as RateLimiterConfig
from waggle.infra.vmm.cloud_hypervisor.devices import RngConfig as RngConfig
from waggle.infra.vmm.cloud_hypervisor.devices import SerialConfig as SerialConfig
from waggle.infra.vmm.cloud_hypervisor.devices import TokenBucket as TokenBucket
from waggle.infra.vmm.cloud_hypervisor.machine import CpusConfig as CpusConfig
from waggle.infra.vmm.cloud_hypervisor.machine import LandlockConfig as LandlockConfig
from waggle.infra.vmm.cloud_hypervisor.machine import MemoryConfig as MemoryConfig
from waggle.infra.vmm.cloud_hypervisor.machine import MemoryZoneConfig as MemoryZoneConfig
from waggle.infra.vmm.cloud_hypervisor.machine import PayloadConfig as PayloadConfig
from waggle.infra.vmm.cloud_hypervisor.machine import PlatformConfig as PlatformConfig
from waggle.infra.vmm.cloud_hypervisor.machine import VmConfig as VmConfig
from waggle.infra.vmm.endpoint import Asked, Endpoint, table
from waggle.infra.vmm.version import OLDEST, Version, Vmm

NONE: Final = "Not created"
"""Not a word of the API, where `vm.info` is refused with 404 then."""
CREATED: Final = "Created"
RUNNING: Final = "Running"
PAUSED: Final = "Paused"
UP: Final = "Running, Paused"
SOME: Final = "Created, Running, Paused"
KNOWN: Final = "Created, Running, Shutdown, Paused, BreakPoint"
ALWAYS: Final = "Not created, Created, Running, Shutdown, Paused, BreakPoint"

_OLDEST: Final = OLDEST[Vmm.CLOUD_HYPERVISOR]
_NO: Final = NoneType
_ROOT: Final = "/api/v1/"


def _put(
    name: str, request: type[Asked], legal: str, since: Version = _OLDEST
) -> Endpoint[Asked, None]:
    return Endpoint(name, "PUT", _ROOT + name, request, _NO, legal, since)


def _add(
    name: str, request: type[Asked], since: Version = _OLDEST
) -> Endpoint[Asked, PciDeviceInfo | None]:
    """Return a method that answers where the device is, or nothing if the VM does not run yet."""
    kind: type[PciDeviceInfo | None] = PciDeviceInfo
    return Endpoint(name, "PUT", _ROOT + name, request, kind, SOME, since, may_be_empty=True)


VMM_PING: Final = Endpoint(
    "vmm.ping", "GET", _ROOT + "vmm.ping", _NO, VmmPingResponse, ALWAYS, _OLDEST
)
VMM_SHUTDOWN: Final = _put("vmm.shutdown", _NO, ALWAYS)
"""Ends the process, with the VM."""

VM_INFO: Final = Endpoint("vm.info", "GET", _ROOT + "vm.info", _NO, VmInfo, KNOWN, _OLDEST)
VM_COUNTERS: Final = Endpoint(
    "vm.counters", "GET", _ROOT + "vm.counters", _NO, VmCounters, UP, _OLDEST
)
VM_CREATE: Final = _put("vm.create", VmConfig, NONE)
VM_DELETE: Final = _put("vm.delete", _NO, ALWAYS)
"""Shuts it down before, where it runs."""
VM_BOOT: Final = _put("vm.boot", _NO, CREATED)
VM_PAUSE: Final = _put("vm.pause", _NO, RUNNING)
VM_RESUME: Final = _put("vm.resume", _NO, "Paused, BreakPoint")
VM_SHUTDOWN: Final = _put("vm.shutdown", _NO, UP)
"""Created after it: `vm.boot` starts it anew."""
VM_REBOOT: Final = _put("vm.reboot", _NO, UP)
VM_POWER_BUTTON: Final = _put("vm.power-button", _NO, UP)
VM_NMI: Final = _put("vm.nmi", _NO, UP)
"""The document of versions before 53 calls it `vmm.nmi`, which was never a route."""

VM_RESIZE: Final = _put("vm.resize", VmResize, SOME)
VM_RESIZE_DISK: Final = _put("vm.resize-disk", VmResizeDisk, UP, V50)
VM_RESIZE_ZONE: Final = _put("vm.resize-zone", VmResizeZone, SOME)
VM_ADD_DEVICE: Final = _add("vm.add-device", DeviceConfig)
VM_ADD_USER_DEVICE: Final = _add("vm.add-user-device", VmAddUserDevice)
VM_ADD_DISK: Final = _add("vm.add-disk", DiskConfig)
VM_ADD_FS: Final = _add("vm.add-fs", FsConfig)
VM_ADD_GENERIC_VHOST_USER: Final = _add("vm.add-generic-vhost-user", GenericVhostUserConfig, V52)
VM_ADD_PMEM: Final = _add("vm.add-pmem", PmemConfig)
VM_ADD_NET: Final = _add("vm.add-net", NetConfig)
VM_ADD_VSOCK: Final = _add("vm.add-vsock", VsockConfig)
VM_ADD_VDPA: Final = _add("vm.add-vdpa", VdpaConfig)
VM_REMOVE_DEVICE: Final = _put("vm.remove-device", VmRemoveDevice, SOME)

VM_SNAPSHOT: Final = _put("vm.snapshot", VmSnapshotConfig, PAUSED)
VM_RESTORE: Final = _put("vm.restore", RestoreConfig, NONE)
"""Paused after it, unless `resume` is set; if it fails, there is no VM."""
VM_COREDUMP: Final = _put("vm.coredump", VmCoredumpData, UP)
"""Only in programs that were built with the feature `guest_debug`."""
VM_SEND_MIGRATION: Final = _put("vm.send-migration", SendMigrationData, UP)
VM_RECEIVE_MIGRATION: Final = _put("vm.receive-migration", ReceiveMigrationData, NONE)

ENDPOINTS: Final = table([*globals().values()])
"""The whole table."""
