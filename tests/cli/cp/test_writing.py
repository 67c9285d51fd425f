# SPDX-License-Identifier: Apache-2.0
"""Trees of a hostile guest are written below their destination only."""

from __future__ import annotations

from pathlib import Path

import pytest

from waggle.cli.cp.sources import CopyFailed
from waggle.cli.cp.writing import write_file, write_tree
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import TreeEntry


def file(name: str, data: str = "new", mode: int = 0o644) -> TreeEntry:
    return TreeEntry(Kind.FILE, name.encode(), mode, 0, data.encode())


def link(name: str, target: str) -> TreeEntry:
    return TreeEntry(Kind.LINK, name.encode(), data=target.encode())


def directory(name: str, mode: int = 0o755) -> TreeEntry:
    return TreeEntry(Kind.DIRECTORY, name.encode(), mode)


def test_a_tree_is_written_and_overwritten(tmp_path: Path) -> None:
    place = tmp_path / "place"
    entries = [
        directory("d", 0o500),
        file("d/a", "one", 0o4755),
        link("d/l", "a"),
        file("deep/er/b", "two"),
    ]
    for _ in range(2):
        done, failed = write_tree(place, entries)
        assert not failed
        assert (done.files, done.directories, done.links, done.size) == (2, 1, 1, 6)
    assert (place / "d/a").read_text() == (place / "d/l").read_text() == "one"
    assert (place / "d/a").stat().st_mode & 0o7777 == 0o755
    assert (place / "d").stat().st_mode & 0o700 == 0o700
    assert (place / "deep/er/b").read_text() == "two"
    assert sorted(path.name for path in (place / "d").iterdir()) == ["a", "l"]


def test_no_link_below_the_place_is_followed(tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    outside.mkdir()
    (outside / "kept").write_text("old")
    place.mkdir()
    (place / "d").symlink_to(outside)
    (place / "f").symlink_to(outside / "kept")
    entries = [directory("d"), file("d/kept"), file("d/more"), file("f"), file("fine")]
    done, failed = write_tree(place, entries)
    assert [skipped.name for skipped in failed] == [b"d", b"d/kept", b"d/more"]
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"kept": "old"}
    assert not (place / "f").is_symlink()
    assert (place / "f").read_text() == (place / "fine").read_text() == "new"
    assert done.files == 2


def test_entries_that_cannot_be_written_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("old")
    done, failed = write_tree(tmp_path, [file("a"), file("b/c"), file("d")])
    assert [skipped.name for skipped in failed] == [b"a", b"b/c"]
    assert done.files == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]


def test_a_file_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    (tmp_path / "l").symlink_to("kept")
    write_file(tmp_path / "l", file("whatever/the/guest/says"))
    assert (tmp_path / "kept").read_text() == "old"
    assert (tmp_path / "l").read_text() == "new"


def test_a_destination_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    for place in (tmp_path / "f", tmp_path / "none" / "x"):
        with pytest.raises(CopyFailed, match="cannot be written"):
            write_tree(place, [file("a")])
    with pytest.raises(CopyFailed, match="cannot be written"):
        write_file(tmp_path / "none" / "x", file("a"))
