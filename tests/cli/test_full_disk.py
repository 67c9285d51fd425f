# SPDX-License-Identifier: Apache-2.0
"""Commands that write to a full disk: an error that names the place, and success once it has room.

The commands are real; they write to a small disk.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.service.local.frozen.kept import OLD, kept
from tests.support.images import file, write_layout
from tests.support.small_disk import SmallDisk, needs_root, small_disk
from tests.support.waggle_process import command_line

pytestmark = [pytest.mark.slow, needs_root]


class Commands:
    """The command line with a cache and a data directory."""

    def __init__(self, directory: Path, cache: Path, **settings: str) -> None:
        self._directory = directory
        self._settings = {"image_cache_dir": str(cache), **settings}

    def refused(self, place: str, *words: str) -> None:
        """Run a command that must report in one line that the disk is full, and which place."""
        ended = command_line(*words, data=self._directory, settings=self._settings)
        message, hint = ended.stderr.splitlines()[-2:]
        assert (ended.returncode, ended.stdout) == (1, ""), ended
        assert message.startswith("waggle: "), ended
        assert f"server's disk is full: there is no room in {place}" in message
        assert "free space" in hint

    def done(self, *words: str) -> str:
        """Run a command that must succeed, and return its output."""
        ended = command_line(*words, data=self._directory, settings=self._settings)
        assert ended.returncode == 0, ended
        return ended.stdout


def _files(disk: SmallDisk) -> list[str]:
    """Return the names of all files except the ballast and lock files."""
    found = [path for path in disk.path.rglob("*") if path.is_file()]
    return sorted(
        path.name for path in found if path.name != "ballast" and ".lock" not in path.name
    )


def test_a_token_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        tokens = disk.path / "tokens"
        waggle = Commands(tmp_path, tmp_path / "cache", auth_tokens_file=str(tokens))
        waggle.done("token", "new", "ann")
        before = tokens.read_text()
        disk.fill()
        waggle.refused(str(disk.path), "token", "new", "bob")
        assert (tokens.read_text(), _files(disk)) == (before, ["tokens"])
        disk.free()
        waggle.done("token", "new", "bob")
        assert len(tokens.read_text().splitlines()) == 2


def test_loading_and_saving_an_image_on_a_full_disk(tmp_path: Path) -> None:
    write_layout(tmp_path / "big", [[file("big", os.urandom(3 << 20))]], name="big")
    with small_disk(tmp_path / "disk", 16) as disk:
        waggle = Commands(tmp_path, disk.path / "cache")
        disk.fill(leave=1 << 20)
        load = ("image", "load", f"oci:{tmp_path}/big", "--name", "big")
        waggle.refused("the image cache", *load)
        assert _files(disk) == ["oci-layout"], "no blob of it"
        disk.fill(leave=4 << 20)  # enough for the layers, and too little for the image's disk
        waggle.refused("the directories of waggle", *load)
        disk.free()
        assert waggle.done(*load).strip().endswith("big:latest")
        save = ("image", "save", "big", f"oci-archive:{disk.path}/out")
        disk.fill(leave=1 << 20)
        waggle.refused("the place to save it to", *save)
        assert not (disk.path / "out").exists()
        disk.free()
        waggle.done(*save)
        assert (disk.path / "out").stat().st_size > 3 << 20


def test_exporting_a_snapshot_to_a_full_disk(tmp_path: Path) -> None:
    kept(tmp_path / "data")
    with small_disk(tmp_path / "disk", 1) as disk:
        waggle = Commands(tmp_path / "data", tmp_path / "cache")
        export = ("snapshot", "export", OLD, str(disk.path / "file"))
        disk.fill()
        waggle.refused(str(disk.path), *export)
        assert _files(disk) == []
        disk.free()
        waggle.done(*export)
