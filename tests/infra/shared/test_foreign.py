# SPDX-License-Identifier: Apache-2.0
"""What a VMM may have made in its directory, and that all of it is removed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from waggle.infra.shared.foreign import remove_directory


class TestRemoving:
    """The directory belongs to the VMM's user, who may have made anything in it."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        path = tmp_path / "machine.run"
        path.mkdir()
        return path

    def test_an_empty_or_absent_directory_is_removed(self, place: Path) -> None:
        remove_directory(place)
        assert not place.exists()
        remove_directory(place)

    def test_links_are_removed_and_not_followed(self, place: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir(0o755)
        (outside / "precious").write_text("kept")
        (place / "ssh").symlink_to(outside / "precious")
        (place / "directory").symlink_to(outside)
        (place / "inner").mkdir()
        (place / "inner" / "up").symlink_to(outside, target_is_directory=True)
        (place / "nowhere").symlink_to("/no/such/file")
        os.link(outside / "precious", place / "hard")
        remove_directory(place)
        assert not place.exists()
        assert (outside / "precious").read_text() == "kept"
        assert stat.S_IMODE(outside.stat().st_mode) == 0o755

    def test_every_kind_of_file_is_removed(self, place: Path) -> None:
        os.mkfifo(place / "fifo", 0)
        (place / "file").write_bytes(b"x" * 100)
        (place / os.fsdecode(b"\xff\n")).touch(0)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place / "ssh"))
        remove_directory(place)
        assert not place.exists()

    def test_directories_with_contents_are_removed(self, place: Path) -> None:
        for path in ("a/b/c", "a/d", "e", "a/b/a/b/c"):
            (place / path).mkdir(parents=True)
            (place / path / "file").touch()
        remove_directory(place)
        assert not place.exists()

    def test_directories_closed_to_their_owner_are_removed(self, place: Path) -> None:
        (place / "a" / "b" / "c").mkdir(parents=True)
        for path in ("a/b/c", "a/b", "a", ""):
            (place / path).chmod(0)
        remove_directory(place)
        assert not place.exists()

    def test_a_tree_deeper_than_any_path_stack_or_descriptor_table_is_removed(
        self, place: Path
    ) -> None:
        here = os.open(place, os.O_RDONLY)
        for _ in range(2_500):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
        before = len(list(Path("/proc/self/fd").iterdir()))
        remove_directory(place)
        assert not place.exists()
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_a_link_in_its_place_is_not_followed(self, place: Path, tmp_path: Path) -> None:
        (place / "precious").touch()
        link = tmp_path / "link"
        link.symlink_to(place)
        with pytest.raises(OSError, match="Not a directory"):
            remove_directory(link)
        assert (place / "precious").exists()
