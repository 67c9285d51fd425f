# SPDX-License-Identifier: Apache-2.0
"""Models of Cloud Hypervisor's API for a VM's configuration, named as in its OpenAPI document.

A `Version` in a field's metadata is the first one that has it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from waggle.infra.vmm.cloud_hypervisor.devices import (
    V50,
    V51,
    V52,
    V53,
    BalloonConfig,
    Byte,
    ConsoleConfig,
    DebugConsoleConfig,
    DeviceConfig,
    DiskConfig,
    FsConfig,
    GenericVhostUserConfig,
    NetConfig,
    Numbers,
    PmemConfig,
    RateLimitGroupConfig,
    RngConfig,
    RtcConfig,
    SerialConfig,
    Short,
    TpmConfig,
    UserDeviceConfig,
    VdpaConfig,
    VsockConfig,
)
from waggle.infra.vmm.fields import MAX_LIST, Arguments, Body, Count, Path, Small, Text

Texts = Annotated[list[Text], Field(max_length=MAX_LIST)]
Processors = Annotated[int, Field(ge=1, le=2**32 - 1)]


class PayloadConfig(Body):
    """What is started."""

    firmware: Path | None = None
    kernel: Path | None = None
    cmdline: Arguments | None = None
    initramfs: Path | None = None
    igvm: Path | None = None
    host_data: Text | None = None


class CpuAffinity(Body):
    """The processors of the host that a virtual one runs on."""

    vcpu: Small
    host_cpus: Numbers


class CpuFeatures(Body):
    """What processors offer besides."""

    amx: bool | None = None


class CpuTopology(Body):
    """How processors are arranged."""

    threads_per_core: Short | None = None
    cores_per_die: Short | None = None
    dies_per_package: Short | None = None
    packages: Short | None = None


class CpusConfig(Body):
    """The processors."""

    boot_vcpus: Processors
    max_vcpus: Processors
    topology: CpuTopology | None = None
    kvm_hyperv: bool | None = None
    max_phys_bits: Byte | None = None
    nested: Annotated[bool | None, V50] = None
    affinity: Annotated[list[CpuAffinity], Field(max_length=MAX_LIST)] | None = None
    features: CpuFeatures | None = None
    core_scheduling: Annotated[Literal["Vm", "Vcpu", "Off"] | None, V52] = None


class MemoryZoneConfig(Body):
    """A part of the memory; sizes in bytes."""

    id: Text
    size: Count
    file: Path | None = None
    mergeable: Annotated[bool | None, V52] = None
    shared: bool | None = None
    hugepages: bool | None = None
    hugepage_size: Count | None = None
    host_numa_node: Small | None = None
    hotplug_size: Count | None = None
    hotplugged_size: Count | None = None
    prefault: bool | None = None
    reserve: Annotated[bool | None, V53] = None


class MemoryConfig(Body):
    """The memory; sizes in bytes."""

    size: Count
    hotplug_size: Count | None = None
    hotplugged_size: Count | None = None
    mergeable: bool | None = None
    hotplug_method: Literal["Acpi", "VirtioMem"] | None = None
    shared: bool | None = None
    hugepages: bool | None = None
    hugepage_size: Count | None = None
    prefault: bool | None = None
    reserve: Annotated[bool | None, V53] = None
    thp: bool | None = None
    zones: Annotated[list[MemoryZoneConfig], Field(max_length=MAX_LIST)] | None = None


class PciSegmentConfig(Body):
    """The apertures of a PCI segment."""

    pci_segment: Short
    mmio32_aperture_weight: Small | None = None
    mmio64_aperture_weight: Small | None = None


class PlatformConfig(Body):
    """What the machine says of itself. `serial_number` and `uuid` are the names before 53."""

    num_pci_segments: Short | None = None
    iommu_segments: Annotated[list[Short], Field(max_length=MAX_LIST)] | None = None
    iommu_address_width_bits: Byte | None = None
    system_serial_number: Annotated[Text | None, V53] = None
    serial_number: Text | None = None
    system_uuid: Annotated[Text | None, V53] = None
    uuid: Text | None = None
    oem_strings: Texts | None = None
    system_manufacturer: Annotated[Text | None, V53] = None
    system_product_name: Annotated[Text | None, V53] = None
    system_version: Annotated[Text | None, V53] = None
    system_family: Annotated[Text | None, V53] = None
    system_sku_number: Annotated[Text | None, V53] = None
    chassis_asset_tag: Annotated[Text | None, V53] = None
    tdx: bool | None = None
    sev_snp: bool | None = None
    iommufd: Annotated[bool | None, V52] = None
    vfio_p2p_dma: Annotated[bool | None, V52] = None


class NumaDistance(Body):
    """How far another node is."""

    destination: Small
    distance: Small


class NumaConfig(Body):
    """A node of the guest."""

    guest_numa_id: Small
    cpus: Numbers | None = None
    distances: Annotated[list[NumaDistance], Field(max_length=MAX_LIST)] | None = None
    memory_zones: Texts | None = None
    pci_segments: Numbers | None = None
    device_id: Annotated[Text | None, V51] = None


class LandlockConfig(Body):
    """A path that the process may use besides; `access` is `r`, `w` or `rw`."""

    path: Path
    access: Literal["r", "w", "rw"]


class VmConfig(Body):
    """A whole VM."""

    cpus: CpusConfig | None = None
    memory: MemoryConfig | None = None
    payload: PayloadConfig | None = None
    rate_limit_groups: Annotated[list[RateLimitGroupConfig], Field(max_length=MAX_LIST)] | None = (
        None
    )
    disks: Annotated[list[DiskConfig], Field(max_length=MAX_LIST)] | None = None
    net: Annotated[list[NetConfig], Field(max_length=MAX_LIST)] | None = None
    rng: RngConfig | None = None
    balloon: BalloonConfig | None = None
    fs: Annotated[list[FsConfig], Field(max_length=MAX_LIST)] | None = None
    generic_vhost_user: Annotated[
        Annotated[list[GenericVhostUserConfig], Field(max_length=MAX_LIST)] | None, V52
    ] = None
    pmem: Annotated[list[PmemConfig], Field(max_length=MAX_LIST)] | None = None
    serial: SerialConfig | None = None
    console: ConsoleConfig | None = None
    debug_console: DebugConsoleConfig | None = None
    devices: Annotated[list[DeviceConfig], Field(max_length=MAX_LIST)] | None = None
    user_devices: Annotated[list[UserDeviceConfig], Field(max_length=MAX_LIST)] | None = None
    vdpa: Annotated[list[VdpaConfig], Field(max_length=MAX_LIST)] | None = None
    vsock: VsockConfig | None = None
    numa: Annotated[list[NumaConfig], Field(max_length=MAX_LIST)] | None = None
    iommu: bool | None = None
    watchdog: bool | None = None
    rtc: Annotated[RtcConfig | None, V53] = None
    pvpanic: bool | None = None
    pci_segments: Annotated[list[PciSegmentConfig], Field(max_length=MAX_LIST)] | None = None
    platform: PlatformConfig | None = None
    tpm: TpmConfig | None = None
    landlock_enable: bool | None = None
    landlock_rules: Annotated[list[LandlockConfig], Field(max_length=MAX_LIST)] | None = None
