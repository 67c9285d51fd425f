# SPDX-License-Identifier: Apache-2.0
"""The directories kept between runs, and those that must not be left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.store import KEPT, Store, key_of
from tests.support.waiting import cancelled

pytestmark = pytest.mark.anyio


def making(content: str, calls: list[str]) -> Callable[[Path], Awaitable[None]]:
    async def make(directory: Path) -> None:
        calls.append(content)
        (directory / "file").write_text(content)

    return make


@given(st.lists(st.text()), st.lists(st.text()))
def test_keys_differ_when_parts_do(one: list[str], other: list[str]) -> None:
    assert (key_of(*one) == key_of(*other)) == (one == other)


async def test_a_directory_is_made_once_and_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "lab")
    calls: list[str] = []
    first = await store.ensure("base", "a", making("1", calls))
    again = await store.ensure("base", "a", making("2", calls))
    assert first == again == store.newest("base")
    assert (first / "file").read_text() == "1"
    assert calls == ["1"]


async def test_a_failure_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def fail(directory: Path) -> None:
        (directory / "half").write_text("")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await store.ensure("base", "a", fail)
    assert store.newest("base") is None
    assert {path.name for path in tmp_path.iterdir()} == {".base.lock"}
    assert (await store.ensure("base", "a", making("1", []))).is_dir()


async def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    store, begun = Store(tmp_path), asyncio.Event()

    async def hang(_directory: Path) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(store.ensure("base", "a", hang))
    await begun.wait()
    await cancelled(task)
    assert {path.name for path in tmp_path.iterdir()} == {".base.lock"}


async def test_unfinished_directories_of_a_killed_lab_are_removed(tmp_path: Path) -> None:
    half = tmp_path / ".base-abc/whole"
    half.mkdir(parents=True)
    await Store(tmp_path).ensure("base", "a", making("1", []))
    assert not half.exists()


async def test_old_directories_of_the_same_kind_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = await store.ensure("parts", "z", making("z", []))
    for number, key in enumerate("abc"):
        path = await store.ensure("base", key, making(key, []))
        os.utime(path, (number, number))
    await store.ensure("base", "d", making("d", []))
    assert sorted(path.name for path in tmp_path.glob("base-*")) == ["base-c", "base-d"]
    assert KEPT == 2
    assert other.is_dir()


def test_a_run_leaves_nothing_and_removes_remains_of_a_killed_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.run_directory() as one:
        dead = one.with_name("dead")
        (dead / "disk").mkdir(parents=True)
        dead.with_name("dead.lock").touch()
        with store.run_directory() as two:
            assert one.is_dir()
            assert two.is_dir()
            assert not dead.exists()
    assert list((tmp_path / "runs").iterdir()) == []
