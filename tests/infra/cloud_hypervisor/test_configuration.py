# SPDX-License-Identifier: Apache-2.0
"""The machine that a Cloud Hypervisor makes, for any resources."""

from __future__ import annotations

import pytest

from waggle.domain.errors import BootFailed
from waggle.domain.machine import Resources
from waggle.infra.cloud_hypervisor.configuration import INHERITED, arguments, kind, machine
from waggle.infra.vmm import cloud_hypervisor as api
from waggle.infra.vmm.fields import lacking
from waggle.infra.vmm.version import OLDEST, Version, Vmm

V53 = Version(53)
SMALL = Resources(cpus=2, memory_mib=256, disk_mib=64)


def test_only_the_scratch_disk_is_writable_and_disks_are_in_the_guests_order() -> None:
    disks = machine(SMALL, V53).disks or []
    assert [disk.path for disk in disks] == ["/kit", "/image", "/scratch", "/identity"]
    assert [disk.readonly for disk in disks] == [True, True, False, True]
    assert {disk.image_type for disk in disks} == {"Raw"}  # never found out from what a guest wrote


def test_only_the_scratch_disk_is_limited() -> None:
    limits = [disk.rate_limiter_config for disk in machine(SMALL, V53, io_mib=10).disks or []]
    assert [limit is not None for limit in limits] == [False, False, True, False]
    assert limits[2] == api.RateLimiterConfig(
        bandwidth=api.TokenBucket(size=10 << 20, refill_time=1000),
        ops=api.TokenBucket(size=640, refill_time=1000),
    )


def test_a_copy_maps_the_inherited_memory_privately() -> None:
    booted, copy = machine(SMALL, V53), machine(SMALL, V53, copy=True)
    assert booted.memory is not None
    assert copy.memory is not None
    (own,), (shared,) = booted.memory.zones or [], copy.memory.zones or []
    assert (own.file, own.shared, own.size) == ("/run/memory", True, 256 << 20)
    assert (shared.file, shared.shared, shared.size) == (INHERITED, False, 256 << 20)
    assert booted.model_copy(update={"memory": None}) == copy.model_copy(update={"memory": None})


def test_every_device_that_would_get_a_name_has_one() -> None:
    """A copy's must be the same: its state is found by them."""
    made = machine(SMALL, V53)
    assert made.vsock is not None
    assert None not in [made.vsock.id, *(disk.id for disk in made.disks or [])]


@pytest.mark.parametrize(
    "version, reports", [((48,), False), ((51, 2), False), ((52,), True), ((53,), True)]
)
def test_freed_memory_is_returned_where_a_copy_survives_that(
    version: tuple[int, ...], reports: bool
) -> None:
    balloon = machine(SMALL, Version(*version)).balloon
    assert balloon is not None
    assert balloon.free_page_reporting is reports


def test_there_is_no_network_and_the_only_way_in_is_vsock() -> None:
    made = machine(SMALL, V53)
    assert made.net is None
    assert made.vsock == api.VsockConfig(id="vsock", cid=3, socket="/run/vsock")
    assert made.serial == api.SerialConfig(mode="Off")


def test_the_oldest_version_has_all_fields() -> None:
    oldest = OLDEST[Vmm.CLOUD_HYPERVISOR]
    assert [*lacking(machine(SMALL, oldest), oldest)] == []


@pytest.mark.parametrize("cpus", [0, 65])
def test_other_numbers_of_processors_are_refused(cpus: int) -> None:
    with pytest.raises(BootFailed, match="at most 64 processors"):
        machine(Resources(cpus, 256, 64), V53)


def test_its_filters_are_on_and_the_kind_does_not_depend_on_resources() -> None:
    assert arguments()[-2:] == ("--seccomp", "true")
    assert kind() == kind()
    assert len(kind()) == 16
