# SPDX-License-Identifier: Apache-2.0
"""When a disk counts as short of room, what is reported, and how callers wait for room."""

from __future__ import annotations

import errno
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
import structlog.testing
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.errors import DiskFull
from waggle.infra.shared.disk_room import DiskRoom, free_bytes

pytestmark = pytest.mark.anyio
MIB = 1 << 20


@dataclass
class Disk:
    """A disk with `free` bytes; every check after the first takes the next of `then`."""

    free: int
    then: list[int] = field(default_factory=list[int])
    slept: list[float] = field(default_factory=list[float])
    error: OSError | None = None

    def __call__(self, _path: Path) -> int:
        if self.error is not None:
            raise self.error
        return self.free

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.then:
            raise EndOfTest
        self.free = self.then.pop(0)

    def room(self, reserve: int = 10 * MIB) -> DiskRoom:
        return DiskRoom("the data directory", Path("/x"), reserve, free=self, sleep=self.sleep)


class EndOfTest(Exception):
    """No more sleeps are scripted."""


async def test_below_the_reserve_it_refuses_with_the_place_and_the_numbers() -> None:
    disk = Disk(10 * MIB)
    disk.room().require()
    disk.free -= 1
    with pytest.raises(DiskFull) as refused:
        disk.room().require()
    assert (refused.value.code, refused.value.retryable) == ("disk_full", True)
    assert "the data directory has 9 MiB free" in refused.value.message
    assert "10 MiB in reserve" in refused.value.message


async def test_no_reserve_and_an_unreadable_disk_refuse_nothing() -> None:
    Disk(0).room(reserve=0).require()
    Disk(0, error=OSError(errno.EIO, "gone")).room().require()


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "is full: there is no room in the data directory, which has 3 MiB free."),
        (errno.EDQUOT, "is full: the quota of its user is used up in the data directory."),
        (errno.EFBIG, "takes no more: a file in the data directory would be larger than it may be"),
        (errno.EROFS, "takes no more: the data directory can only be read now."),
    ],
)
async def test_a_write_error_is_reported_with_the_place_and_the_reason(
    number: int, words: str
) -> None:
    with pytest.raises(DiskFull) as caught, Disk(3 * MIB).room().errors():
        raise OSError(number, "as the system says")
    assert (caught.value.code, caught.value.retryable) == ("disk_full", True)
    assert caught.value.message.startswith(f"The server's disk {words}")
    assert "then try again" in caught.value.hint


async def test_other_system_errors_are_unchanged() -> None:
    room = Disk(3 * MIB).room()
    with pytest.raises(PermissionError), room.errors():
        raise PermissionError(errno.EACCES, "no")


async def test_a_waiter_continues_once_the_reserve_is_free_and_never_at_once() -> None:
    disk = Disk(50 * MIB, then=[50 * MIB])
    await disk.room().until_room()
    assert disk.slept == [1.0]
    disk = Disk(0, then=[0, 9 * MIB, 10 * MIB, 0])
    await disk.room().until_room()
    assert disk.then == [0]


async def test_the_log_has_one_line_for_short_and_one_for_room() -> None:
    disk = Disk(20 * MIB, then=[0, 0, 0, 20 * MIB, 20 * MIB, 0])
    with structlog.testing.capture_logs() as logged, pytest.raises(EndOfTest):
        await disk.room().watch()
    lines: list[MutableMapping[str, object]] = list(logged)
    assert [line["event"] for line in lines] == ["disk_short", "disk_has_room", "disk_short"]


@needs_root
async def test_a_real_disk_fills_up(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        assert free_bytes(disk.path / "is" / "to" / "be") == 4 * MIB
        disk.fill()
        assert free_bytes(disk.path) == 0
        with pytest.raises(DiskFull), DiskRoom("it", disk.path, 0).errors():
            await anyio.Path(disk.path / "more").write_bytes(b"x")
        disk.free()
        assert free_bytes(disk.path) == 4 * MIB


@needs_root
async def test_a_real_disk_becomes_read_only(tmp_path: Path) -> None:
    room = DiskRoom("it", tmp_path / "disk", 0)
    with small_disk(tmp_path / "disk", 1) as disk:
        with disk.read_only(), pytest.raises(DiskFull, match="only be read"), room.errors():
            await anyio.Path(disk.path / "more").write_bytes(b"x")
        with room.errors():
            await anyio.Path(disk.path / "more").write_bytes(b"x")
