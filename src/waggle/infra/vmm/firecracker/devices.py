# SPDX-License-Identifier: Apache-2.0
"""Models of Firecracker's API for devices, named as in its OpenAPI document.

A `Version` in a field's metadata is the first one that has it.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, RootModel

from waggle.infra.vmm.fields import MAX_LIST, Body, Count, Mac, Name, Path, Small, Text
from waggle.infra.vmm.version import Version

V1_13: Final = Version(1, 13)
V1_14: Final = Version(1, 14)
V1_16: Final = Version(1, 16)
Address = Annotated[str, Field(max_length=15, pattern=r"^169\.254\.[0-9]{1,3}\.[0-9]{1,3}$")]


class TokenBucket(Body):
    """At most `size` tokens, refilled in `refill_time` milliseconds; a first burst on top."""

    one_time_burst: Count | None = None
    refill_time: Count
    size: Count


class RateLimiter(Body):
    """Limits of a device: `bandwidth` in bytes, `ops` in operations."""

    bandwidth: TokenBucket | None = None
    ops: TokenBucket | None = None


class Drive(Body):
    """A virtio-block device, or with `socket` one of vhost-user.

    `path_on_host` and `is_read_only` are for virtio-block only, and needed there.
    """

    drive_id: Name
    partuuid: Text | None = None
    is_root_device: bool
    cache_type: Literal["Unsafe", "Writeback"] | None = None
    is_read_only: bool | None = None
    path_on_host: Path | None = None
    rate_limiter: RateLimiter | None = None
    io_engine: Literal["Sync", "Async"] | None = None
    socket: Path | None = None


class PartialDrive(Body):
    """What can change while the VM runs; the guest sees another path as a change of size."""

    drive_id: Name
    path_on_host: Path | None = None
    rate_limiter: RateLimiter | None = None


class Pmem(Body):
    """A virtio-pmem device."""

    id: Name
    path_on_host: Path
    root_device: bool | None = None
    read_only: bool | None = None
    rate_limiter: Annotated[RateLimiter | None, V1_16] = None


class PartialPmem(Body):
    """What can change while the VM runs."""

    id: Name
    rate_limiter: RateLimiter | None = None


class NetworkInterface(Body):
    """A virtio-net device on a TAP device of the host."""

    guest_mac: Mac | None = None
    host_dev_name: Text
    iface_id: Name
    mtu: Annotated[Annotated[int, Field(ge=68, le=65535)] | None, V1_16] = None
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None


class PartialNetworkInterface(Body):
    """What can change while the VM runs."""

    iface_id: Name
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None


class Vsock(Body):
    """A virtio-vsock device: connections to the guest by `uds_path`, from it to `uds_path_PORT`."""

    guest_cid: Annotated[int, Field(ge=3, le=2**32 - 1)]
    uds_path: Path
    vsock_id: Text | None = None
    """Deprecated."""


class Balloon(Body):
    """A balloon. `stats_polling_interval_s` other than 0 turns statistics on."""

    amount_mib: Small
    deflate_on_oom: bool
    stats_polling_interval_s: Small | None = None
    free_page_hinting: Annotated[bool | None, V1_14] = None
    free_page_reporting: Annotated[bool | None, V1_14] = None


class BalloonUpdate(Body):
    """Another size."""

    amount_mib: Small


class BalloonStats(Body):
    """What the guest says of its memory; bytes and counters, pages of 4 KiB."""

    target_pages: Count
    actual_pages: Count
    target_mib: Count
    actual_mib: Count
    swap_in: Count | None = None
    swap_out: Count | None = None
    major_faults: Count | None = None
    minor_faults: Count | None = None
    free_memory: Count | None = None
    total_memory: Count | None = None
    available_memory: Count | None = None
    disk_caches: Count | None = None
    hugetlb_allocations: Count | None = None
    hugetlb_failures: Count | None = None
    oom_kill: Count | None = None
    alloc_stall: Count | None = None
    async_scan: Count | None = None
    direct_scan: Count | None = None
    async_reclaim: Count | None = None
    direct_reclaim: Count | None = None


class BalloonStatsUpdate(Body):
    """Another interval; statistics cannot be turned on or off after the start."""

    stats_polling_interval_s: Small


class BalloonStartCmd(Body):
    """A run of free page hinting."""

    acknowledge_on_stop: bool | None = None


class BalloonHintingStatus(Body):
    """The last commands of host and guest."""

    host_cmd: Small
    guest_cmd: Small | None = None


class EntropyDevice(Body):
    """A virtio-rng device."""

    rate_limiter: RateLimiter | None = None


class SerialDevice(Body):
    """Where the output of the serial port goes; what exceeds the limit is dropped."""

    serial_out_path: Path | None = None
    rate_limiter: Annotated[TokenBucket | None, V1_16] = None


class MemoryHotplugConfig(Body):
    """A virtio-mem device; sizes in MiB."""

    total_size_mib: Small | None = None
    slot_size_mib: Annotated[int, Field(ge=128, le=2**32 - 1)] | None = None
    block_size_mib: Annotated[int, Field(ge=2, le=2**32 - 1)] | None = None


class MemoryHotplugSizeUpdate(Body):
    """Another size to reach, in MiB."""

    requested_size_mib: Small | None = None


class MemoryHotplugStatus(Body):
    """How far the guest is; sizes in MiB."""

    total_size_mib: Small | None = None
    slot_size_mib: Small | None = None
    block_size_mib: Small | None = None
    plugged_size_mib: Small | None = None
    requested_size_mib: Small | None = None


class MmdsConfig(Body):
    """The metadata service, for the interfaces that are named."""

    version: Literal["V1", "V2"] | None = None
    network_interfaces: Annotated[list[Name], Field(max_length=MAX_LIST)]
    ipv4_address: Address | None = None
    imds_compat: Annotated[bool | None, V1_13] = None


class MmdsContentsObject(RootModel[dict[str, JsonValue]]):
    """The data of the metadata service; in a change, null removes a member (RFC 7396)."""
