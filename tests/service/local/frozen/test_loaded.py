# SPDX-License-Identifier: Apache-2.0
"""Frozen machines in memory: read once, shared, and closed whichever caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from waggle.service.local.frozen.manifest import Loaded, closing_with
from waggle.tasks import finish

pytestmark = pytest.mark.anyio


class Pretended:
    """A frozen machine that counts how often it was closed."""

    vmm, ram, state, is_on_disk, changed = "pretended", -1, -1, False, None

    def __init__(self) -> None:
        self.closed = 0

    def save(self, directory: Path) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1


class Reader:
    """A loader of pretended machines that returns once `go` is set."""

    def __init__(self) -> None:
        self.made: list[Pretended] = []
        self.reading, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, _directory: Path) -> Pretended:
        self.reading.set()
        assert self.go.wait(20)
        self.made.append(Pretended())
        return self.made[-1]


def places(parent: Path, count: int) -> list[Path]:
    made = [parent / str(number) for number in range(count)]
    for directory in made:
        directory.mkdir()
    return made


async def cancelled(task: asyncio.Task[None], reader: Reader) -> None:
    """Cancel the task while it reads."""
    await asyncio.to_thread(reader.reading.wait, 20)
    task.cancel()
    reader.go.set()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_frozen_machine_is_read_once_and_shared(tmp_path: Path) -> None:
    reader = Reader()
    loaded = Loaded()
    async with (
        loaded.using(tmp_path, partial(reader, tmp_path)) as first,
        loaded.using(tmp_path, partial(reader, tmp_path)) as second,
    ):
        assert first is second
    async with loaded.using(tmp_path, partial(reader, tmp_path)) as third:
        assert third is first
    loaded.close()
    assert [state.closed for state in reader.made] == [1]


async def test_the_least_recently_used_is_closed_but_never_one_in_use(tmp_path: Path) -> None:
    reader = Reader()
    loaded = Loaded(keep=1)
    first, second, third = places(tmp_path, 3)
    async with loaded.using(first, partial(reader, first)):
        async with loaded.using(second, partial(reader, second)):
            pass
        async with loaded.using(third, partial(reader, third)):
            pass
        assert [state.closed for state in reader.made] == [0, 1, 0]
        loaded.close()
        assert [state.closed for state in reader.made] == [0, 1, 1]
    loaded.close()
    assert [state.closed for state in reader.made] == [1, 1, 1]


async def test_a_machine_whose_reader_was_cancelled_is_kept_and_closed(
    tmp_path: Path,
) -> None:
    reader = Reader()
    reader.go.clear()
    loaded = Loaded()

    async def use() -> None:
        async with loaded.using(tmp_path, partial(reader, tmp_path)):
            pytest.fail("it was cancelled")

    await cancelled(asyncio.create_task(use()), reader)
    async with loaded.using(tmp_path, partial(reader, tmp_path)) as frozen:
        assert frozen is reader.made[0]
    loaded.close()
    assert [state.closed for state in reader.made] == [1]


async def test_a_result_that_a_cancelled_caller_never_got_is_closed(tmp_path: Path) -> None:
    reader = Reader()
    reader.go.clear()

    async def take(make: Callable[[Path], Pretended]) -> None:
        with contextlib.ExitStack() as held:
            await finish(closing_with(held, asyncio.to_thread(make, tmp_path)))

    await cancelled(asyncio.create_task(take(reader)), reader)
    assert [state.closed for state in reader.made] == [1]
