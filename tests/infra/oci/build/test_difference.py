# SPDX-License-Identifier: Apache-2.0
"""The difference of two trees, applied to the lower one, gives the upper one."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.archive import DEFAULT_LIMITS
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.build.bootstrap import adopt, difference
from waggle.infra.oci.layers.merge import Node, merge, walk

Tree = Mapping[str, "Tree | bytes"]
NAMES = st.sampled_from(["a", "b", "c"])
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(NAMES, st.binary(max_size=3), max_size=3),
    lambda inner: st.dictionaries(NAMES, inner | st.binary(max_size=3), max_size=3),
    max_leaves=8,
)


def grown(tree: Tree, data: bytearray) -> Node:
    """Build a tree of nodes whose contents are appended to `data`."""
    node = Node(stat.S_IFDIR | 0o755)
    for name, value in tree.items():
        if isinstance(value, bytes):
            file = Node(stat.S_IFREG | 0o644, size=len(value), content=(0, len(data)))
            data += value
            node.children[name.encode()] = file
        else:
            node.children[name.encode()] = grown(value, data)
    return node


def entries(root: Node) -> list[Entry]:
    return [
        Entry(path, node.mode, node.uid, node.gid, 0, node.size, offset=node.content[1])
        for path, node in walk(root)
        if path
    ]


def shown(root: Node, files: list[bytes]) -> dict[bytes, bytes | None]:
    """Map every path to its content, or to None for a directory."""
    found: dict[bytes, bytes | None] = {}
    for path, node in walk(root):
        source, start = node.content
        body = files[source][start : start + node.size] if files else b""
        found[b"/".join(path)] = None if node.is_dir else body
    return found


@given(TREES, TREES)
def test_the_difference_makes_the_upper_tree_from_the_lower(
    tmp_path_factory: pytest.TempPathFactory, lower: Tree, upper: Tree
) -> None:
    place = tmp_path_factory.mktemp("trees")
    below, above = bytearray(), bytearray()
    one, two = grown(lower, below), grown(upper, above)
    files = [place / "below", place / "above"]
    for file, data in zip(files, (below, above), strict=True):
        file.write_bytes(data)
    layer = difference(one, files[:1], two, files[1:], removals=True)
    merged = merge([entries(one), entries(layer)], DEFAULT_LIMITS)
    assert shown(merged, [bytes(below), bytes(above)]) == shown(two, [bytes(above)])


@given(TREES)
def test_equal_trees_have_no_difference(
    tmp_path_factory: pytest.TempPathFactory, tree: Tree
) -> None:
    place = tmp_path_factory.mktemp("trees")
    data = bytearray()
    one, two = grown(tree, data), grown(tree, data)
    file = place / "data"
    file.write_bytes(data)
    assert not difference(one, [file], two, [file], removals=True).children


def test_without_removals_missing_files_are_kept(tmp_path: Path) -> None:
    data = bytearray()
    lower, upper = grown({"a": b"1"}, data), grown({"b": b"2"}, data)
    file = tmp_path / "data"
    file.write_bytes(data)
    assert set(difference(lower, [file], upper, [file], removals=False).children) == {b"b"}
    assert set(difference(lower, [file], upper, [file], removals=True).children) == {
        b"b",
        b".wh.a",
    }


def test_a_changed_mode_alone_is_a_change(tmp_path: Path) -> None:
    data = bytearray()
    lower, upper = grown({"d": {"a": b"1"}}, data), grown({"d": {"a": b"1"}}, data)
    upper.children[b"d"].children[b"a"].mode = stat.S_IFREG | 0o755
    file = tmp_path / "data"
    file.write_bytes(data)
    changed = difference(lower, [file], upper, [file], removals=True)
    assert set(changed.children[b"d"].children) == {b"a"}


def test_directories_take_their_mode_from_the_lower_tree() -> None:
    lower, upper = grown({"d": {"a": b""}}, bytearray()), grown({"d": {"n": {}}}, bytearray())
    lower.children[b"d"].mode = stat.S_IFDIR | 0o1777
    adopt(lower, upper)
    assert upper.children[b"d"].mode == stat.S_IFDIR | 0o1777
    assert upper.children[b"d"].children[b"n"].mode == stat.S_IFDIR | 0o755
