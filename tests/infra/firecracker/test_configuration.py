# SPDX-License-Identifier: Apache-2.0
"""The calls that make a machine on Firecracker, for each kind of machine and version."""

from __future__ import annotations

import json

import pytest

from waggle.domain.errors import BootFailed
from waggle.domain.machine import Resources
from waggle.infra.firecracker.configuration import (
    COMMAND_LINE,
    MACHINE,
    Call,
    arguments,
    freeze_call,
    kind,
    load_call,
    machine,
    refusal,
    texts,
)
from waggle.infra.vmm import firecracker as api
from waggle.infra.vmm.fields import lacking
from waggle.infra.vmm.version import OLDEST, Version, Vmm

OLD, NEW = OLDEST[Vmm.FIRECRACKER], Version(1, 16, 1)
SIZE = Resources(cpus=2, memory_mib=256, disk_mib=64)


def drives(io_mib: int = 0) -> list[api.Drive]:
    return machine(SIZE, OLD, io_mib).drives or []


@pytest.mark.parametrize("version", [OLD, Version(1, 12, 1), NEW])
def test_every_version_knows_all_calls_and_fields(version: Version) -> None:
    assert [*lacking(machine(SIZE, version, 10), version)] == []
    calls: list[Call] = [load_call(version), freeze_call(changes=True)]
    for endpoint, body in calls:
        assert endpoint.since <= version
        assert endpoint.until is None or endpoint.until > version
        assert [*lacking(body, version)] == []


def test_what_it_reads_is_the_whole_machine_which_has_no_network_card() -> None:
    """The oldest version takes its processors from a file only."""
    files = {name: json.loads(text) for name, text in texts(SIZE, OLD, 10).items()}
    read = files.pop(MACHINE)
    assert read["cpu-config"].removeprefix("/") in files
    ((_, processors),) = files.items()
    whole = machine(SIZE, OLD, 10)
    assert api.FullVmConfiguration.model_validate({**read, "cpu-config": processors}) == whole
    assert whole.network_interfaces is None


def test_disks_come_in_the_guests_order_and_only_the_scratch_disk_is_writable() -> None:
    made = drives()
    assert [drive.drive_id for drive in made] == ["kit", "image", "scratch", "identity"]
    assert [drive.path_on_host for drive in made] == ["/kit", "/image", "/scratch", "/identity"]
    assert [drive.drive_id for drive in made if not drive.is_read_only] == ["scratch"]
    assert not any(drive.is_root_device for drive in made), "the command line names it"


def test_only_the_scratch_disk_is_limited_and_only_if_there_is_a_limit() -> None:
    limited = [drive for drive in drives(10) if drive.rate_limiter]
    assert [drive.drive_id for drive in limited] == ["scratch"]
    limits = limited[0].rate_limiter
    assert limits is not None
    assert limits.bandwidth == api.TokenBucket(size=10 << 20, refill_time=1000)
    assert not any(drive.rate_limiter for drive in drives())


def test_freed_memory_is_reported_by_versions_that_can() -> None:
    """Others have no balloon: nothing would blow it up."""
    assert machine(SIZE, OLD).balloon is None
    balloon = machine(SIZE, NEW).balloon
    assert balloon is not None
    assert balloon.free_page_reporting
    assert balloon.deflate_on_oom


def test_processors_offer_neither_vmx_nor_svm_and_all_else_as_they_are() -> None:
    config = machine(SIZE, OLD).cpu_config
    assert config is not None
    assert config.cpuid_modifiers is not None
    bits = {one.leaf: one.modifiers[0] for one in config.cpuid_modifiers}
    assert {leaf: one.register_ for leaf, one in bits.items()} == {
        "0x1": "ecx",
        "0x80000001": "ecx",
    }
    for leaf, bit in (("0x1", 5), ("0x80000001", 2)):
        digits = bits[leaf].bitmap.removeprefix("0b")[::-1]
        assert len(digits) == 32
        assert [place for place, digit in enumerate(digits) if digit != "x"] == [bit]
        assert digits[bit] == "0"


def test_changes_of_a_copy_are_tracked_under_the_name_that_the_version_knows() -> None:
    _, old = load_call(OLD)
    _, new = load_call(NEW)
    assert isinstance(old, api.SnapshotLoadParams)
    assert isinstance(new, api.SnapshotLoadParams)
    assert (old.enable_diff_snapshots, old.track_dirty_pages) == (True, None)
    assert (new.enable_diff_snapshots, new.track_dirty_pages) == (None, True)


@pytest.mark.parametrize("cpus", [0, 33])
def test_processors_that_it_does_not_give_are_refused(cpus: int) -> None:
    with pytest.raises(BootFailed, match="at most 32 processors"):
        machine(Resources(cpus, 256, 64), NEW)


def test_the_guest_has_no_virtio_console() -> None:
    assert "waggle.channels=vsock" in COMMAND_LINE.split()
    assert "console=" not in COMMAND_LINE
    assert "init=/init" in COMMAND_LINE.split()


def test_its_socket_is_in_the_directory_that_the_server_holds() -> None:
    for boots in (True, False):
        assert arguments(boots=boots)[:2] == ("--api-sock", "/run/api.sock")


def test_only_one_that_boots_reads_what_its_machine_is() -> None:
    assert arguments(boots=True)[-2:] == ("--config-file", f"/{MACHINE}")
    assert "--config-file" not in arguments(boots=False)


def test_a_refusal_is_its_own_words_and_anything_else_is_none() -> None:
    said = "2026 [anonymous-instance:main] RunWithApiError error: Failed to build: No such file."
    assert refusal(["older", said, "Error: RunWithApi(...)"]) == "Failed to build: No such file"
    assert refusal([]) is None
    assert refusal(["RunWithApiError error: ", "another"]) is None


def test_the_kind_is_the_same_as_long_as_the_hardware_is() -> None:
    """With another one, all that was frozen before is refused."""
    assert kind() == "aebfb677cc6a845e"
