# SPDX-License-Identifier: Apache-2.0
"""`waggle cp` against a whole server over HTTP, with fake machines and with a real one."""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client
from tests.cli.beside import Commands
from tests.support.fakes import FakeFile, FakeGuest
from tests.support.server import LEGACY, Rig, client, created, serving
from tests.support.waggle_client import connected, create
from tests.support.waggle_process import Waggle, beside, running, small

from waggle.cli.client import CallRefused
from waggle.cli.cp import Copied, copy
from waggle.cli.cp.sources import CopyFailed, plan
from waggle.domain.errors import NotFound
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import MAX_TREE_FILE, TreeEntry, encode
from waggle.domain.programs import HOME

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def box() -> AsyncGenerator[tuple[Rig, Client, FakeGuest, str]]:
    """Run a server with one environment; yield also the environment's id."""
    async with serving() as rig, client(rig, LEGACY) as agent:
        name = await created(agent)
        yield rig, agent, rig.host.only, name


async def cp(agent: Client, *words: str | Path, recursive: bool = False) -> list[Copied]:
    return await copy(agent, plan([str(word) for word in words]), recursive=recursive)


async def test_files_are_copied_in_and_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    async with box() as (_, agent, guest, name):
        (done,) = await cp(agent, tmp_path / "a", f"{name}:new")
        assert (done.written.files, done.written.size, done.left_out) == (1, 3, [])
        await cp(agent, tmp_path / "a", tmp_path / "b", f"{name[:13]}:")
        await cp(agent, tmp_path / "b", f"{name}:/opt/made/")
        assert {path: file.data for path, file in guest.files.items()} == {
            f"{HOME}/new": b"one",
            f"{HOME}/a": b"one",
            f"{HOME}/b": b"two",
            "/opt/made/b": b"two",
        }
        await cp(agent, f"{name}:new", tmp_path / "back")
        await cp(agent, f"{name}:a", f"{name}:/opt/made/b", tmp_path)
        assert (tmp_path / "back").read_text() == (tmp_path / "a").read_text() == "one"
        assert (tmp_path / "b").read_text() == "two"


async def test_a_large_tree_is_copied_in_and_out(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    contents = {f"{n % 7}/{n}": random.Random(n).randbytes(2_100_000) for n in range(6)}
    for path, data in contents.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    async with box() as (_, agent, guest, name):
        (done,) = await cp(agent, tree, f"{name}:/data", recursive=True)
        assert done.written.size == sum(map(len, contents.values()))
        assert {path: guest.files[f"/data/{path}"].data for path in contents} == contents
        (done,) = await cp(agent, f"{name}:/data", tmp_path / "back", recursive=True)
        assert done.written.files == len(contents)
        assert {path: (tmp_path / "back" / path).read_bytes() for path in contents} == contents


async def test_a_file_that_is_too_large_to_copy_in_is_copied_out(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(MAX_TREE_FILE + 1)
    async with box() as (_, agent, guest, name):
        guest.files["/tmp/large"] = FakeFile(data, 0o644)
        await cp(agent, f"{name}:/tmp/large", tmp_path)
        assert (tmp_path / "large").read_bytes() == data
        with pytest.raises(CopyFailed, match="one file may have"):
            await cp(agent, tmp_path / "large", f"{name}:")


async def test_an_empty_tree_is_copied(tmp_path: Path) -> None:
    async with box() as (_, agent, _guest, name):
        await cp(agent, f"{name}:/tmp", tmp_path / "new", recursive=True)
        assert list((tmp_path / "new").iterdir()) == []


async def test_names_of_a_hostile_guest_stay_below_the_destination(tmp_path: Path) -> None:
    names = (b"../up", b"/etc/x", b"d/../../up", b"l/below", b"ok")
    links = {b"l": b"..", b"m": b"/etc", b"n": b"ok/../../x"}
    records = [TreeEntry(Kind.LINK, name, data=target) for name, target in links.items()]
    records += [TreeEntry(Kind.FILE, name, data=b"bad") for name in names]
    place = tmp_path / "place"
    place.mkdir()
    async with box() as (_, agent, guest, name):
        guest.packed = b"".join(map(encode, records))
        (done,) = await cp(agent, f"{name}:/tmp", place, recursive=True)
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
            "place",
            "place/tmp",
            "place/tmp/ok",
        ]
        assert {path for path, _ in done.left_out} == {
            "l",
            "l/below",
            "m",
            "n",
            "../up",
            "/etc/x",
            "d/../../up",
        }


async def test_a_copy_that_cannot_work_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "d").mkdir()
    async with box() as (_, agent, guest, name):
        guest.files["/tmp/f"] = FakeFile(b"text", 0o644)
        for words, message in (
            ((tmp_path / "a", tmp_path / "d", f"{name}:/tmp"), "is a directory"),
            ((tmp_path / "a", tmp_path / "a", f"{name}:/nowhere"), "is no directory"),
            ((tmp_path / "none", f"{name}:/tmp"), "cannot be read"),
            ((f"{name}:/tmp", tmp_path), "is a directory"),
            ((f"{name}:/tmp/f", f"{name}:/tmp/f", tmp_path / "new"), "is no directory"),
            ((f"{name}:/tmp/f", tmp_path / "none" / "f"), "cannot be written"),
        ):
            with pytest.raises(CopyFailed, match=message):
                await cp(agent, *words)
        with pytest.raises(CallRefused, match="There is no /tmp/none"):
            await cp(agent, f"{name}:/tmp/none", tmp_path)
        with pytest.raises(NotFound, match="There is no environment 'nobody'"):
            await cp(agent, tmp_path / "a", "nobody:")
        assert list(guest.files) == ["/tmp/f"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]


@pytest.mark.slow
async def test_output_and_exit_codes_for_scripts(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_text("one")
    os.mkfifo(tree / "pipe")
    async with box() as (rig, _, guest, name):
        waggle = functools.partial(Commands(rig, tmp_path / "data"), "cp")
        code, out, err = await waggle("-r", "--json", str(tree), f"{name}:")
        assert (code, json.loads(out)) == (
            1,
            [
                {
                    "source": str(tree),
                    "target": f"{name}:",
                    "files": 1,
                    "directories": 1,
                    "links": 0,
                    "bytes": 3,
                    "left_out": [{"path": "pipe", "reason": "it is no file, directory or link"}],
                }
            ],
        )
        assert err == f"Left out pipe of {tree}: it is no file, directory or link.\n"
        assert guest.files[f"{HOME}/tree/a"].data == b"one"
        assert await waggle(f"{name}:tree/a", str(tmp_path)) == (0, "", "")
        assert await waggle(str(tree / "a"), f"{name}:/opt/made/") == (0, "", "")
        assert "/opt/made/a" in guest.files
        code, out, err = await waggle(str(tree), f"{name}:")
        assert (code, out) == (1, "")
        assert "Copy a tree with -r" in err
        assert (await waggle("a", "b"))[0] == 2


@pytest.mark.vm
@pytest.mark.timeout(300)
async def test_trees_are_copied_to_and_from_a_real_machine(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "run.sh").write_text("#!/bin/sh\necho hello\n")
    (tree / "d" / "run.sh").chmod(0o755)
    (tree / "odd \n name").write_bytes(b"\0\xff")
    (tree / "l").symlink_to("d/run.sh")
    with running(tmp_path / "server", small(tmp_path)) as server:
        async with connected(server) as agent:
            await create(agent, "shell", name="box")
        await anyio.to_thread.run_sync(check_real, server, tree, tmp_path)


def check_real(server: Waggle, tree: Path, directory: Path) -> None:
    for words in (
        ("cp", "-r", str(tree), "box:"),
        ("cp", "-r", "box:tree", str(directory / "back")),
        ("cp", "box:tree/l", str(directory / "script")),
        ("cp", str(directory / "script"), "box:/tmp/copy"),
        ("cp", "box:/tmp/copy", str(directory)),
    ):
        ended = beside(server, *words)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    back = directory / "back"
    assert {str(path.relative_to(back)) for path in back.rglob("*")} == {
        "d",
        "d/run.sh",
        "l",
        "odd \n name",
    }
    assert (back / "l").readlink() == Path("d/run.sh")
    assert (back / "odd \n name").read_bytes() == b"\0\xff"
    assert (back / "d" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (directory / "script").read_text() == (directory / "copy").read_text()
    beside(server, "env", "rm", "box")
