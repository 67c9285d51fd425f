# SPDX-License-Identifier: Apache-2.0
"""The guest kit's key and sources, checked without a build, and one real build from nothing."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from pathlib import Path

import pytest
from tests.support.leaks import Leaks

from waggle.app.values import EXTENSIONS
from waggle.config import load
from waggle.domain.errors import SetupIncomplete
from waggle.domain.machine import READY_LINE
from waggle.domain.programs import MAX_CODE_BYTES, MAX_HEADER_BYTES
from waggle.domain.programs.runtime import FILE, NODE_RUNNER, PYTHON_RUNNER, SHELL
from waggle.infra.guest.protocol import PORT
from waggle.infra.rootfs.kit import AGENT_SOURCES, GUEST_SOURCES, GuestKit, kit_key
from waggle.infra.shared import debian

MEASURE = 1 << 10


def define(file: str, name: str) -> int:
    """Return the value of a C macro that is a number, plain or shifted."""
    text = (GUEST_SOURCES / file).read_text()
    match = re.search(rf"#define {name} \(?(\d+)u?(?: << (\d+))?\)?", text)
    assert match is not None, name
    return int(match[1]) << int(match[2] or 0)


def source(file: str) -> str:
    return (GUEST_SOURCES / file).read_text()


def test_the_key_changes_with_every_source(tmp_path: Path) -> None:
    copy = tmp_path / "guest"
    shutil.copytree(GUEST_SOURCES, copy)
    assert kit_key(copy) == kit_key()
    seen = {kit_key()}
    for file in sorted(copy.iterdir()):
        file.write_bytes(file.read_bytes() + b"\n")
        seen.add(kit_key(copy))
    assert len(seen) == 1 + len(list(copy.iterdir()))


def test_the_key_changes_with_every_source_of_the_agent(tmp_path: Path) -> None:
    copy = tmp_path / "agent"
    shutil.copytree(AGENT_SOURCES, copy)
    assert kit_key(agent=copy) == kit_key()
    (copy / "main.c").write_text("other")
    assert kit_key(agent=copy) != kit_key()


def test_the_key_distinguishes_names_from_contents(tmp_path: Path) -> None:
    (tmp_path / "ab").write_bytes(b"c")
    one = kit_key(tmp_path)
    (tmp_path / "ab").rename(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"bc")
    assert kit_key(tmp_path) != one


def test_every_source_is_built() -> None:
    script = source("assemble.sh")
    for file in GUEST_SOURCES.glob("*.c"):
        assert file.name in script


def test_every_module_of_python_is_copied() -> None:
    words = source("assemble.sh").replace(".python", " ").split()
    for file in GUEST_SOURCES.glob("*.python"):
        assert file.stem in [word.rstrip(";") for word in words]


def test_sources_stay_readable() -> None:
    for file in (*GUEST_SOURCES.iterdir(), *AGENT_SOURCES.iterdir()):
        text = file.read_text()
        assert "SPDX-License-Identifier: Apache-2.0" in text[:100] or file.suffix == ".json"
        assert len(text.splitlines()) <= 200
        assert max(len(line) for line in text.splitlines()) <= 105, file.name


def test_constants_of_host_and_guest_agree() -> None:
    assert READY_LINE.decode() in source("supervise.c")
    assert f'"{PORT}"' in source("agent.c")
    assert define("frame.c", "MAX_FRAME") >= 3 * MAX_HEADER_BYTES
    assert define("code.c", "MAX_CODE") >= MAX_CODE_BYTES
    assert define("session.h", "MAX_WORDS") > MAX_HEADER_BYTES / 2
    assert define("waggle.h", "SANDBOX_ID") == 1000
    for word in (SHELL, PYTHON_RUNNER, NODE_RUNNER, FILE):
        assert f'"{word}"' in source("frame.c") + source("code.c")
    longest = define("session.h", "MAX_EXTENSION")
    assert all(len(extension) <= longest for extension in EXTENSIONS.values())


def test_a_missing_kit_raises_setup_incomplete(tmp_path: Path) -> None:
    with pytest.raises(SetupIncomplete, match="kit is not built"):
        GuestKit(tmp_path).require()


@pytest.mark.anyio
async def test_a_build_without_its_tool_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(SetupIncomplete, match="mmdebstrap is not installed"):
        await GuestKit(tmp_path).ensure("http://mirror.example/debian")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.anyio
@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_kit_is_built_once_from_nothing_and_found_again(tmp_path: Path) -> None:
    watch = Leaks()
    mirror = load().debian_mirror
    printed = asyncio.Event()
    cancelled = asyncio.create_task(GuestKit(tmp_path).ensure(mirror, lambda _line: printed.set()))
    await printed.wait()
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]

    began = {1: 0, 2: 0}

    def count(number: int) -> debian.OnLine:
        def line(_line: str) -> None:
            began[number] = 1

        return line

    kits = [GuestKit(tmp_path).ensure(mirror, count(number)) for number in began]
    paths = await asyncio.gather(*kits)
    assert paths[0] == paths[1]
    assert sum(began.values()) == 1
    kit = paths[0]
    assert kit.stat().st_mode & 0o777 == 0o444
    with kit.open("rb") as file:
        file.seek(MEASURE)
        assert file.read(4) == b"\xe2\xe1\xf5\xe0"  # EROFS, as include/linux/magic.h has it
    assert 4 << 20 < kit.stat().st_size < 32 << 20
    started = time.monotonic()
    assert await GuestKit(tmp_path).ensure(None) == GuestKit(tmp_path).require() == kit
    assert time.monotonic() - started < 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock", ".erofs"}
    await watch.settle()
