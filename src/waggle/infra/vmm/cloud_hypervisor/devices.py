# SPDX-License-Identifier: Apache-2.0
"""Models of Cloud Hypervisor's API for devices, named as in its OpenAPI document.

A `Version` in a field's metadata is the first one that has it. The program ignores fields that it
does not know, so without these a setting could be without effect.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from waggle.infra.vmm.fields import MAX_LIST, Body, Count, Ip, Mac, Path, Small, Text
from waggle.infra.vmm.version import Version

V50: Final = Version(50)
V50_1: Final = Version(50, 1)
V51: Final = Version(51)
V52: Final = Version(52)
V53: Final = Version(53)
V54: Final = Version(54)

Numbers = Annotated[list[Small], Field(max_length=MAX_LIST)]
Short = Annotated[int, Field(ge=0, le=2**16 - 1)]
Byte = Annotated[int, Field(ge=0, le=2**8 - 1)]
ConsoleMode = Literal["Off", "Pty", "Tty", "File", "Socket", "Null"]


class Pci(Body):
    """What the devices on PCI have in common; the document repeats it in each."""

    id: Text | None = None
    pci_segment: Short | None = None
    pci_device_id: Annotated[Byte | None, V52] = None


class BehindIommu(Pci):
    """The same for those that can be behind a virtual IOMMU."""

    iommu: bool | None = None


class TokenBucket(Body):
    """At most `size` tokens, refilled in `refill_time` milliseconds; a first burst on top."""

    size: Count
    one_time_burst: Count | None = None
    refill_time: Count


class RateLimiterConfig(Body):
    """Limits of a device: `bandwidth` in bytes, `ops` in operations."""

    bandwidth: TokenBucket | None = None
    ops: TokenBucket | None = None


class RateLimitGroupConfig(Body):
    """A limit that several disks share."""

    id: Text
    rate_limiter_config: RateLimiterConfig


class VirtQueueAffinity(Body):
    """The processors of the host that work on a queue."""

    queue_index: Short
    host_cpus: Numbers


class DiskConfig(BehindIommu):
    """A virtio-block device. `path` is for all but vhost-user."""

    path: Path | None = None
    readonly: bool | None = None
    direct: bool | None = None
    num_queues: Small | None = None
    queue_size: Short | None = None
    vhost_user: bool | None = None
    vhost_socket: Path | None = None
    rate_limiter_config: RateLimiterConfig | None = None
    serial: Text | None = None
    rate_limit_group: Text | None = None
    queue_affinity: Annotated[list[VirtQueueAffinity], Field(max_length=MAX_LIST)] | None = None
    backing_files: Annotated[bool | None, V50_1] = None
    sparse: Annotated[bool | None, V51] = None
    image_type: Annotated[Literal["FixedVhd", "Qcow2", "Raw", "Vhdx", "Unknown"] | None, V50_1] = (
        None
    )
    lock_granularity: Annotated[Literal["ByteRange", "Full"] | None, V52] = None


class NetConfig(BehindIommu):
    """A virtio-net device."""

    tap: Text | None = None
    ip: Ip | None = None
    mask: Ip | None = None
    mac: Mac | None = None
    host_mac: Mac | None = None
    mtu: Short | None = None
    num_queues: Small | None = None
    queue_size: Short | None = None
    vhost_user: bool | None = None
    vhost_socket: Path | None = None
    vhost_mode: Literal["Client", "Server"] | None = None
    rate_limiter_config: RateLimiterConfig | None = None
    offload_tso: bool | None = None
    offload_ufo: bool | None = None
    offload_csum: bool | None = None


class RngConfig(Body):
    """A virtio-rng device that reads `src`."""

    id: Annotated[Text | None, V52] = None
    pci_segment: Annotated[Short | None, V52] = None
    pci_device_id: Annotated[Byte | None, V52] = None
    iommu: bool | None = None
    src: Path


class RtcConfig(BehindIommu):
    """A virtio-rtc device."""


class BalloonConfig(Body):
    """A balloon; `size` in bytes."""

    id: Annotated[Text | None, V53] = None
    pci_segment: Annotated[Short | None, V53] = None
    pci_device_id: Annotated[Byte | None, V53] = None
    iommu: Annotated[bool | None, V53] = None
    size: Count
    deflate_on_oom: bool | None = None
    free_page_reporting: bool | None = None


class FsConfig(Pci):
    """A virtio-fs device, served at `socket`."""

    tag: Text
    socket: Path
    num_queues: Small
    queue_size: Short


class GenericVhostUserConfig(Pci):
    """Any vhost-user device; its document named these fields otherwise before 53."""

    socket: Path
    queue_sizes: Annotated[list[Short], Field(max_length=MAX_LIST)]
    device_type: Small


class PmemConfig(BehindIommu):
    """A virtio-pmem device."""

    file: Path
    size: Count | None = None
    discard_writes: bool | None = None


class ConsoleConfig(Body):
    """The virtio console."""

    file: Path | None = None
    socket: Path | None = None
    mode: ConsoleMode
    iommu: bool | None = None
    id: Annotated[Text | None, V52] = None
    pci_segment: Annotated[Short | None, V52] = None
    pci_device_id: Annotated[Byte | None, V52] = None


class SerialConfig(Body):
    """The serial port."""

    file: Path | None = None
    socket: Path | None = None
    mode: ConsoleMode


class DebugConsoleConfig(Body):
    """The port that firmware writes to."""

    file: Path | None = None
    mode: ConsoleMode
    iobase: Small | None = None


class DeviceConfig(BehindIommu):
    """A VFIO device. `path` is in sysfs, and needed before 53."""

    path: Path | None = None
    x_nv_gpudirect_clique: Byte | None = None
    x_exclude_mmap_bars: Annotated[
        Annotated[list[Count], Field(max_length=MAX_LIST)] | None, V52
    ] = None


class UserDeviceConfig(Pci):
    """A vfio-user device."""

    socket: Path


class VdpaConfig(BehindIommu):
    """A vDPA device."""

    path: Path
    num_queues: Small


class VsockConfig(BehindIommu):
    """A virtio-vsock device: connections to the guest by `socket`, from it to `socket_PORT`."""

    cid: Annotated[int, Field(ge=3, le=2**64 - 1)]
    socket: Path


class TpmConfig(Body):
    """A TPM, served at `socket`."""

    socket: Path


class VmAddUserDevice(Body):
    """A vfio-user device to add."""

    socket: Path
    pci_segment: Short | None = None
    pci_device_id: Annotated[Byte | None, V52] = None


class PciDeviceInfo(Body):
    """Where a device was added."""

    id: Text
    bdf: Text
