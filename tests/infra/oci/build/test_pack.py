# SPDX-License-Identifier: Apache-2.0
"""Packing a tree gives the same bytes every time and loses nothing but what is dropped."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from tests.support.images import (
    Layer,
    device,
    directory,
    fifo,
    file,
    hard_link,
    symlink,
    tar_bytes,
)

from waggle.infra.archive import DEFAULT_LIMITS
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.build.pack import PackedLayer, drop, pack
from waggle.infra.oci.layers.layers import read_entries, read_layer
from waggle.infra.oci.layers.merge import Node, merge, walk
from waggle.infra.oci.store.image import MEDIA_LAYER, Descriptor

EPOCH = 1_767_225_600
LAYER: Layer = [
    file("z", b"zz", 0o4755, uid=10, gid=20),
    directory("b", 0o1777),
    file("b/old", b"x" * 5000, mtime=5),
    file("b/new", b"y", mtime=EPOCH + 1000),
    hard_link("a", "b/old"),
    symlink("l", "../x"),
    device("n", tarfile.CHRTYPE, 1, 3),
    fifo("p"),
    file("x", b"", pax_headers={"SCHILY.xattr.user.k": "v"}),
    file("ő", b"utf-8"),
]


def tree_of(layer: Layer, data: Path) -> Node:
    with data.open("w+b") as out:
        entries: list[Entry] = []
        stream = io.BytesIO(tar_bytes(layer))
        read_entries(stream, out.fileno(), entries.append, DEFAULT_LIMITS)
    return merge([entries], DEFAULT_LIMITS)


def packed(layer: Layer, where: Path) -> tuple[PackedLayer, Path]:
    where.mkdir()
    root = tree_of(layer, where / "data")
    done = pack(root, [where / "data"], where / "layer", EPOCH, lambda _: None)
    return done, where / "layer"


def test_order_and_times_after_the_epoch_do_not_change_the_layer(tmp_path: Path) -> None:
    later = [*LAYER[:3], file("b/new", b"y", mtime=EPOCH + 9), *LAYER[4:]]
    shuffled = [later[1], later[2], later[4], *later[5:], later[3], later[0]]
    first, _ = packed(LAYER, tmp_path / "1")
    second, _ = packed(shuffled, tmp_path / "2")
    assert first == second


def test_a_packed_tree_is_read_back_in_full(tmp_path: Path) -> None:
    done, blob = packed(LAYER, tmp_path / "1")
    descriptor = Descriptor(f"{MEDIA_LAYER}+gzip", done.digest, done.size)
    again = tmp_path / "again"
    with blob.open("rb") as file_:
        entries: list[Entry] = []
        place = (again, entries.append, DEFAULT_LIMITS)
        read_layer(file_, descriptor, done.diff_id, *place, advance=lambda _: None)
    root = merge([entries], DEFAULT_LIMITS)
    found = {b"/".join(path).decode(): node for path, node in walk(root) if path}
    before = tree_of(LAYER, tmp_path / "data")
    for path, node in walk(before):
        name = b"/".join(path).decode()
        if not name:
            continue
        other = found.pop(name)
        assert (other.mode, other.uid, other.gid, other.size) == (
            node.mode, node.uid, node.gid, node.size
        )  # fmt: skip
        assert (other.link, other.device, other.xattrs) == (node.link, node.device, node.xattrs)
        assert other.mtime_ns == min(node.mtime_ns, EPOCH * 10**9)
    assert not found
    assert root.children[b"a"] is root.children[b"b"].children[b"old"]


@pytest.mark.parametrize(
    "pattern,gone",
    [
        ("/b", {"b", "b/new", "b/old"}),
        ("/b/*", {"b/new", "b/old"}),
        ("/*/n??", {"b/new"}),
        ("/**/old", {"b/old"}),
        ("/?", {"a", "b", "b/new", "b/old", "l", "n", "p", "x", "z", "ő"}),
        ("/b.*", set[str]()),
    ],
)
def test_dropping_follows_the_pattern(tmp_path: Path, pattern: str, gone: set[str]) -> None:
    root = tree_of(LAYER, tmp_path / "data")
    before = {b"/".join(path).decode() for path, _ in walk(root)}
    drop(root, [pattern])
    assert before - {b"/".join(path).decode() for path, _ in walk(root)} == gone
