# SPDX-License-Identifier: Apache-2.0
"""The console of a guest that writes arbitrary bytes: watched, cleaned and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waggle.domain.errors import BootFailed
from waggle.domain.machine import READY_LINE
from waggle.infra.guest.console import (
    FLOOD_BYTES_PER_SECOND,
    MAX_LINE,
    MAX_LOG_BYTES,
    TAIL_LINES,
    Console,
    clean,
)

Following = Callable[[Console, asyncio.StreamReader], Coroutine[None, None, None]]
REPLACED = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def fed(log: Path, *pieces: bytes) -> Console:
    console = Console(log)
    for piece in pieces:
        console.feed(piece)
    console.close()
    return console


def test_lines_are_kept_in_order_with_the_unfinished_one_last(log: Path) -> None:
    console = fed(log, b"one\r\ntw", b"o\n\n  \nthr", b"ee")
    assert console.tail() == ["one", "two", "three"]
    assert log.read_bytes() == b"one\r\ntwo\n\n  \nthree"


def test_only_the_last_lines_are_kept(log: Path) -> None:
    console = fed(log, b"".join(b"%d\n" % number for number in range(1_000)))
    assert console.tail() == [str(number) for number in range(1_000 - TAIL_LINES, 1_000)]


def test_control_characters_are_replaced_and_lines_cut() -> None:
    assert clean(b"a\x1b[2J\x07b\xff\r") == f"a{REPLACED}[2J{REPLACED}b{REPLACED}"
    assert len(clean(b"x" * 10_000)) == MAX_LINE


def test_the_ready_line_is_seen_however_it_is_split(log: Path) -> None:
    console = Console(log)
    for byte in b"noise\n" + READY_LINE[:-1]:
        console.feed(bytes([byte]))
        assert not console.ready.is_set()
    console.feed(READY_LINE[-1:])
    assert console.ready.is_set()
    assert not console.failed.is_set()
    console.close()


@pytest.mark.parametrize("sign", ["Kernel panic - not syncing: x", "waggle: boot failed"])
def test_the_first_fatal_line_is_the_cause(log: Path, sign: str) -> None:
    console = fed(log, f"[ 1.0] {sign}\r\nKernel panic - not syncing: later\n".encode())
    assert console.failed.is_set()
    assert console.cause == f"[ 1.0] {sign}"


def test_an_endless_line_takes_bounded_memory_and_is_cut(log: Path) -> None:
    console = fed(log, *(b"x" * 10_000 for _ in range(100)))
    assert len(console._rest) <= 16 * 1024
    assert console.tail() == ["x" * MAX_LINE]


def test_the_log_is_bounded_and_the_tail_continues(log: Path) -> None:
    console = fed(log, *(b"y" * 65_535 + b"\n" for _ in range(20)), b"the end\n")
    assert log.stat().st_size == MAX_LOG_BYTES
    assert console.tail()[-1] == "the end"


def test_a_log_that_cannot_be_written_does_not_stop_the_console() -> None:
    console = Console(Path("/dev/full"))
    console.feed(READY_LINE + b"\nmore\n")
    assert console.ready.is_set()
    assert console.tail()[-1] == "more"
    assert any("the console log ends here: No space left" in line for line in console.tail())
    console.close()


def test_a_log_that_cannot_be_opened_fails_the_boot(tmp_path: Path) -> None:
    with pytest.raises(BootFailed, match=r"log cannot be opened: No such file"):
        Console(tmp_path / "none" / "log")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=5))
def test_the_tail_does_not_depend_on_how_the_data_is_split(
    log: Path, data: bytes, cuts: list[int]
) -> None:
    log.unlink(missing_ok=True)
    whole = fed(log, data)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(bounds)]
    assert fed(log, *pieces).tail() == whole.tail()
    assert all(line.isprintable() and line for line in whole.tail())


@pytest.mark.anyio
async def test_following_ends_with_the_stream(log: Path) -> None:
    console, reader = Console(log), asyncio.StreamReader()
    reader.feed_data(b"one\ntwo")
    reader.feed_eof()
    await console.follow(reader)
    assert console.tail() == ["one", "two"]
    console.close()


@pytest.mark.anyio
async def test_following_ends_when_the_stream_breaks(log: Path) -> None:
    console, reader = Console(log), asyncio.StreamReader()
    reader.set_exception(ConnectionResetError())
    await console.follow(reader)
    await console.follow_messages(reader)
    assert console.tail() == []
    console.close()


@pytest.mark.anyio
@pytest.mark.parametrize("follow", [Console.follow, Console.follow_messages])
async def test_a_flood_is_read_at_a_limited_rate(log: Path, follow: Following) -> None:
    console, reader = Console(log), asyncio.StreamReader()
    reader.feed_data((b"z" * 99 + b"\n") * (FLOOD_BYTES_PER_SECOND // 100 + 1000))
    following = asyncio.create_task(follow(console, reader))
    await asyncio.wait({following}, timeout=0.2)
    assert log.stat().st_size <= FLOOD_BYTES_PER_SECOND + 16 * 1024
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    console.close()


@pytest.mark.anyio
async def test_vmm_messages_join_the_tail_and_the_log_cut_and_cleaned(log: Path) -> None:
    console, reader = Console(log), asyncio.StreamReader()
    reader.feed_data(b"qemu: bad\x1b\n" + b"m" * 100_000 + b"\nlast")
    reader.feed_eof()
    await console.follow_messages(reader)
    first, long, last = console.tail()
    assert (first, last) == (f"qemu: bad{REPLACED}", "last")
    assert len(long) <= MAX_LINE
    assert log.read_text().splitlines() == [first, long, last]
    console.close()


@pytest.mark.anyio
async def test_noise_that_a_guest_can_provoke_in_the_vmm_is_dropped(log: Path) -> None:
    console, reader = Console(log, noise="no hole"), asyncio.StreamReader()
    reader.feed_data(b"qemu: no hole at 1\nqemu: bad\nqemu: no hole at 2")
    reader.feed_eof()
    await console.follow_messages(reader)
    assert console.tail() == ["qemu: bad"]
    console.close()
