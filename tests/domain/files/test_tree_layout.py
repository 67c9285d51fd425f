# SPDX-License-Identifier: Apache-2.0
"""A layout accepts only trees that a file system could hold, and uses bounded memory."""

from __future__ import annotations

import posixpath
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import TooLarge
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import MAX_TREE_NODES, Layout

DEEP = b"/d" * 97


def test_deep_names_are_refused_after_100_000_nodes_in_30_mib() -> None:
    layout, fits = Layout(), MAX_TREE_NODES // 98
    tracemalloc.start()
    try:
        for count in range(fits):
            layout.add(b"%x" % count + DEEP, Kind.FILE)
        with pytest.raises(TooLarge, match="100,000 names"):
            layout.add(b"more" + DEEP, Kind.FILE)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_many_names_below_one_deep_directory_are_accepted() -> None:
    layout = Layout()
    for count in range(19_000):
        layout.add(b"trunk%b/%x" % (b"/d" * 97, count), Kind.FILE)


def test_the_total_length_of_names_is_bounded() -> None:
    layout = Layout(names=1_000)
    for count in range(4):
        layout.add(b"%d" % count * 250, Kind.FILE)
    with pytest.raises(TooLarge, match="bytes of names"):
        layout.add(b"one more", Kind.FILE)


paths = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4).map(b"/".join)


@given(st.lists(st.tuples(paths, st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.LINK]))))
def test_a_layout_agrees_with_a_table_of_whole_names(added: list[tuple[bytes, Kind]]) -> None:
    layout, table = Layout(), dict[bytes, Kind]()
    for name, kind in added:
        expected = in_table(table, name, kind)
        try:
            assert layout.add(name, kind) is expected
        except ValueError:
            assert expected is None


def in_table(table: dict[bytes, Kind], name: bytes, kind: Kind) -> bool | None:
    """Add a name to the table and return what `Layout.add` should; None if it should refuse."""
    above: list[bytes] = []
    parent = posixpath.dirname(name)
    while parent:
        above.append(parent)
        parent = posixpath.dirname(parent)
    for directory in reversed(above):
        if table.setdefault(directory, Kind.DIRECTORY) is not Kind.DIRECTORY:
            return None
    known = table.get(name)
    if known is not None and (known is Kind.DIRECTORY) != (kind is Kind.DIRECTORY):
        return None
    table[name] = kind
    return known is not None and kind is not Kind.DIRECTORY
