# SPDX-License-Identifier: Apache-2.0
"""Files and trees of this host as archives: their contents, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.cli.cp.sources import CopyFailed, Found, Source, look, pack, pieces
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import MAX_TREE_FILE, TreeEntry
from waggle.infra.archive.trees import read_archive


def sent(source: Source) -> dict[str, TreeEntry]:
    """Return the entries that a server finds in the archive, by name."""
    archive, missing = pack(source.found)
    assert not missing
    return {entry.name.decode(): entry for entry in read_archive(archive)}


def test_a_link_to_a_file_is_followed_and_renamed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    (tmp_path / "a").chmod(0o751)
    (tmp_path / "l").symlink_to("a")
    found = sent(look(tmp_path / "l", "new", recursive=False))
    assert list(found) == ["new"]
    assert (found["new"].kind, found["new"].data, found["new"].mode) == (Kind.FILE, b"text", 0o751)


def test_a_tree_keeps_its_links_whatever_their_target(tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "d").mkdir(parents=True)
    (top / "d" / "a").write_text("text")
    (top / "d" / "in").symlink_to("../d/a")
    (top / "out").symlink_to("../secret")
    (top / "absolute").symlink_to("/etc/passwd")
    os.mkfifo(top / "pipe")
    with (top / "large").open("wb") as file:
        file.truncate(MAX_TREE_FILE + 1)
    source = look(top, "t", recursive=True)
    assert list(sent(source)) == ["t", "t/absolute", "t/d", "t/out", "t/d/a", "t/d/in"]
    assert {entry.name for entry in source.left_out} == {b"pipe", b"large"}
    assert source.size == 4


def test_the_contents_of_a_directory_have_no_prefix(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    assert list(sent(look(tmp_path, "", recursive=True))) == ["a"]


def test_sources_that_cannot_be_copied_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, recursive, words in (
        (tmp_path / "none", True, "cannot be read"),
        (tmp_path, False, "is a directory"),
        (tmp_path / "pipe", True, "no file, directory or link"),
    ):
        with pytest.raises(CopyFailed, match=words):
            look(path, "x", recursive=recursive)


def test_a_file_removed_meanwhile_is_left_out(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("text")
    source = look(tmp_path, "", recursive=True)
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("longer text")
    archive, missing = pack(source.found)
    assert [entry.name for entry in missing] == [b"a"]
    assert [entry.data for entry in read_archive(archive)] == [b"long"]


@given(st.lists(st.integers(0, 50)), st.integers(1, 60), st.integers(1, 5))
def test_pieces_are_bounded_and_lose_nothing(sizes: list[int], size: int, count: int) -> None:
    found = [Found(b"%d" % n, b"", Kind.FILE, 0, 0, length) for n, length in enumerate(sizes)]
    made = list(pieces(found, size, count))
    assert [entry for piece in made for entry in piece] == found
    assert all(0 < len(piece) <= count for piece in made)
    assert all(len(piece) == 1 or sum(entry.size for entry in piece) <= size for piece in made)
