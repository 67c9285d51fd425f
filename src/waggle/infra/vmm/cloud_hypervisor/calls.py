# SPDX-License-Identifier: Apache-2.0
"""Models of Cloud Hypervisor's API for what is done with a VM, named as in its OpenAPI document.

A `Version` in a field's metadata is the first one that has it. URLs are `file:///...` for
snapshots, `unix:...` or `tcp:...` for migrations.
"""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import (
    Field,
    JsonValue,
    RootModel,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from waggle.infra.vmm.cloud_hypervisor.devices import V52, V53, V54
from waggle.infra.vmm.cloud_hypervisor.machine import Processors, Texts, VmConfig
from waggle.infra.vmm.fields import MAX_LIST, Body, Count, Path, Small, Text

MigrationMode = Literal["Precopy", "Postcopy"]


class VmmPingResponse(Body):
    """Which Cloud Hypervisor this is."""

    build_version: Text | None = None
    version: Text
    pid: Count | None = None
    features: Texts | None = None


class DeviceNode(Body):
    """A device of the VM. `resources` are values of many kinds, for people."""

    id: Text | None = None
    resources: Annotated[list[JsonValue], Field(max_length=MAX_LIST)] | None = None
    children: Texts | None = None
    pci_bdf: Text | None = None


def _if_known(value: object, read: ValidatorFunctionWrapHandler) -> VmConfig | None:
    """Return the configuration, or None if a newer version has values in it that are not known."""
    try:
        return cast("VmConfig", read(value))
    except ValidationError:
        return None


class VmInfo(Body):
    """The VM and its state; `memory_actual_size` in bytes, without what a balloon holds.

    A newer version may have other states, and a configuration that is not known here: that is None.
    """

    config: Annotated[VmConfig | None, WrapValidator(_if_known)]
    state: Literal["Created", "Running", "Shutdown", "Paused", "BreakPoint"] | Text
    memory_actual_size: Count | None = None
    device_tree: Annotated[dict[Text, DeviceNode], Field(max_length=MAX_LIST)] | None = None


_Counters = Annotated[dict[Text, Count], Field(max_length=MAX_LIST)]


class VmCounters(RootModel[Annotated[dict[Text, _Counters], Field(max_length=MAX_LIST)]]):
    """The counters of each device."""


class VmResize(Body):
    """Other numbers of processors and bytes; what is absent stays."""

    desired_vcpus: Processors | None = None
    desired_ram: Count | None = None
    desired_balloon: Count | None = None


class VmResizeDisk(Body):
    """Another size of a disk, in bytes."""

    id: Text
    desired_size: Count


class VmResizeZone(Body):
    """Another size of a memory zone, in bytes."""

    id: Text
    desired_ram: Count


class VmRemoveDevice(Body):
    """The device to remove; the guest has to agree."""

    id: Text


class VmSnapshotConfig(Body):
    """The directory that gets the snapshot."""

    destination_url: Path


class VmCoredumpData(Body):
    """The file that gets the core dump."""

    destination_url: Path


class VmMemoryZoneUpdateData(Body):
    """Another node of the host for a memory zone."""

    id: Text
    host_numa_node: Small


_Zones = Annotated[list[VmMemoryZoneUpdateData], Field(max_length=MAX_LIST)]


class RestoreConfig(Body):
    """The snapshot to restore. `resume` has it run at once."""

    source_url: Path
    prefault: bool | None = None
    memory_restore_mode: Annotated[Literal["Copy", "OnDemand"] | None, V52] = None
    resume: Annotated[bool | None, V52] = None
    zone_updates: Annotated[_Zones | None, V54] = None


class ReceiveMigrationData(Body):
    """Where a VM is awaited."""

    receiver_url: Path
    tls_dir: Annotated[Path | None, V53] = None
    memory_mode: Annotated[MigrationMode | None, V53] = None
    zone_updates: Annotated[_Zones | None, V54] = None


class SendMigrationData(Body):
    """Where a VM is sent, and how long that may take."""

    destination_url: Path
    local: bool | None = None
    downtime_ms: Annotated[Count | None, V52] = None
    timeout_s: Annotated[Count | None, V52] = None
    timeout_strategy: Annotated[Literal["Cancel", "Ignore"] | None, V52] = None
    connections: Annotated[Annotated[int, Field(ge=1, le=128)] | None, V52] = None
    tls_dir: Annotated[Path | None, V53] = None
    memory_mode: Annotated[MigrationMode | None, V53] = None
