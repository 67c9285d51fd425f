# SPDX-License-Identifier: Apache-2.0
"""Scratch disks, checked with e2fsck, debugfs and the kernel's view of their holes."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from waggle.infra.rootfs.machine_disks import ScratchDisks, clone

pytestmark = pytest.mark.anyio
SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"


def tool(*argv: str | Path) -> str:
    done = subprocess.run(
        ["env", f"PATH={SBIN}", *argv], capture_output=True, text=True, check=True
    )
    return done.stdout


def owners(disk: Path) -> dict[str, tuple[str, str, str]]:
    """Return mode, owner and group of the entries in the root directory of an ext4 disk."""
    lines = tool("debugfs", "-R", "ls -l /", disk).splitlines()
    rows = [line.split() for line in lines if line.strip()]
    return {row[-1]: (row[1], row[3], row[4]) for row in rows}


WANTED = dict.fromkeys((".", "upper", "work"), ("40755", "0", "0"))


async def test_a_disk_is_clean_sparse_and_ready_for_an_overlay(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    await ScratchDisks(tmp_path / "cache").make(4096, disk)
    info = disk.stat()
    assert info.st_size == 4096 << 20
    assert info.st_blocks * 512 < 2 << 20
    assert stat.S_IMODE(info.st_mode) == 0o600
    tool("e2fsck", "-fn", disk)
    assert owners(disk).items() >= WANTED.items()
    shown = tool("dumpe2fs", disk)
    assert "has_journal" not in shown
    groups = re.findall(r"^Group \d+.*", shown, re.MULTILINE)
    assert shown.count("ITABLE_ZEROED") >= len(groups) - 1  # the guest need not write them
    inodes = re.search(r"^Inode count:\s+(\d+)", shown, re.MULTILINE)
    assert inodes
    assert int(inodes[1]) >= 500_000


async def test_disks_of_one_size_are_equal_and_independent(tmp_path: Path) -> None:
    disks = ScratchDisks(tmp_path / "cache")
    await asyncio.gather(*(disks.make(64, tmp_path / f"d{n}") for n in range(4)))
    first = (tmp_path / "d0").read_bytes()
    assert all((tmp_path / f"d{n}").read_bytes() == first for n in range(4))
    with (tmp_path / "d0").open("r+b") as file:
        file.write(b"changed")
    assert (tmp_path / "d1").read_bytes() == first
    assert [p.name for p in (tmp_path / "cache").glob("*.ext4")] == ["scratch-64.v2.ext4"]


async def test_an_existing_target_is_kept(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        await ScratchDisks(tmp_path / "cache").make(64, tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == b"mine"


def test_cloning_keeps_data_and_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        for at in (0, 5 << 20, 900 << 20):
            os.pwrite(file.fileno(), b"data" * 3000, at)
    clone(source, target)
    assert target.stat().st_size == 1 << 30
    assert target.stat().st_blocks <= source.stat().st_blocks + 64
    with target.open("rb") as file:
        for at in (0, 5 << 20, 900 << 20):
            assert os.pread(file.fileno(), 12_000, at) == b"data" * 3000
        assert os.pread(file.fileno(), 4096, 100 << 20) == bytes(4096)


@pytest.mark.skipif(os.geteuid() != 0, reason="BECOMING ANOTHER USER NEEDS ROOT")
def test_directories_on_a_disk_that_another_user_makes_belong_to_root(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    for path in (tmp_path, *list(tmp_path.parents)[:3]):
        path.chmod(path.stat().st_mode | 0o111)
    program = """
        import asyncio, os, pathlib, sys
        from waggle.infra.rootfs.machine_disks import ScratchDisks

        def make(where):
            asyncio.run(ScratchDisks(where / "cache").make(64, where / "disk"))

        make(pathlib.Path(sys.argv[2]))  # imports all there is: Python's files may be root's alone
        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)
        make(pathlib.Path(sys.argv[1]))
    """
    ours = tmp_path / "ours"
    ours.mkdir()
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), theirs, ours], check=True)
    assert owners(theirs / "disk").items() >= WANTED.items()
