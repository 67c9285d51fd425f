# SPDX-License-Identifier: Apache-2.0
"""`Watches` with the kit's own program, which runs on this host instead of in a guest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.kit_files import build_files

from waggle.domain.errors import FileNotFound
from waggle.domain.files.guest_files import Names
from waggle.domain.programs import Command, ExecutionResult, Streams
from waggle.infra.ssh.run.trees import Run
from waggle.infra.ssh.run.watching import Watches
from waggle.tasks import end

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command of the kit's program as `Shell.run` would, but here."""
    files = build_files(tmp_path_factory.mktemp("files"))

    async def here(command: Command, into: Streams | None) -> ExecutionResult:
        assert into is not None
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            str(files), *command.argv[1:], stdout=pipe, stderr=pipe
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while piece := await process.stdout.read(1 << 15):
                into.stdout.feed(piece)
            into.stderr.feed(await process.stderr.read())
            code = await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        kept = into.stdout.output(), into.stderr.output()
        return ExecutionResult(*kept, exit_code=code, signal=None, timed_out=False, duration=0.0)

    return here


class Heard:
    """What was notified of: all names, and how often anything may have changed."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.anything = 0
        self.more = asyncio.Event()

    def __call__(self, names: Names) -> None:
        self.names |= names
        self.anything += not names
        self.more.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not enough():
                self.more.clear()
                await self.more.wait()


@asynccontextmanager
async def watching(run: Run, path: Path) -> AsyncGenerator[tuple[Heard, asyncio.Future[None]]]:
    heard = Heard()
    watch = asyncio.ensure_future(Watches(run).watch(str(path), heard))
    try:
        await heard.until(lambda: heard.anything == 1)
        yield heard, watch
    finally:
        await end(watch)


async def test_every_name_that_linux_allows_comes_through(run: Run, tmp_path: Path) -> None:
    names = ["a", " ", "\n", "ä", "..a", "-x", "*", "x" * 255, "\udcff\udc81", "d/e/f"]
    async with watching(run, tmp_path) as (heard, _):
        (tmp_path / "d" / "e").mkdir(parents=True)
        for name in names[:-1]:
            (tmp_path / name).touch()
        await heard.until(lambda: "d" in heard.names)
        (tmp_path / names[-1]).touch()
        shown = {os.fsencode(name).decode("utf-8", "backslashreplace") for name in names}
        await heard.until(lambda: shown <= heard.names)


async def test_the_deepest_directories_come_through_or_are_left_out(
    run: Run, tmp_path: Path
) -> None:
    deep = tmp_path
    while len(str(deep / ("d" * 250))) < 4_000:
        deep /= "d" * 250
    deep.mkdir(parents=True)
    async with watching(run, tmp_path) as (heard, watch):
        for directory in [deep, *deep.parents][:-1]:
            if directory.is_relative_to(tmp_path):
                (directory / "f").touch()
        await heard.until(lambda: "f" in heard.names or heard.anything > 1)
        assert not watch.done()


async def test_a_thousand_changes_are_anything(run: Run, tmp_path: Path) -> None:
    async with watching(run, tmp_path) as (heard, watch):
        for number in range(1_000):
            (tmp_path / str(number)).touch()
        await heard.until(lambda: heard.anything > 1)
        assert not watch.done()


async def test_the_watch_ends_with_its_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    async with watching(run, tmp_path / "x") as (heard, watch):
        (tmp_path / "x").rmdir()
        async with asyncio.timeout(20):
            await watch
        assert heard.anything == 2


async def test_a_missing_path_is_the_error_of_a_missing_file(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFound, match="There is no"):
        await Watches(run).watch(str(tmp_path / "x"), Heard())
