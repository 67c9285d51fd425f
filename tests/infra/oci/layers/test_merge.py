# SPDX-License-Identifier: Apache-2.0
"""Merging layers: single cases, and a comparison with a plain dictionary of paths as model."""

from __future__ import annotations

import io
import stat
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.images import (
    Layer,
    Member,
    directory,
    file,
    hard_link,
    opaque,
    symlink,
    tar_bytes,
    whiteout,
)

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import DEFAULT_LIMITS, Limits
from waggle.infra.archive.tar import TarReader
from waggle.infra.oci.layers.merge import Node, merge, walk


def merged(*layers: Layer, limits: Limits = DEFAULT_LIMITS) -> dict[str, Node]:
    """Merge layers; return the tree by path, without its root."""
    entries = [list(TarReader(io.BytesIO(tar_bytes(layer)), limits)) for layer in layers]
    found = walk(merge(entries, limits))
    return {b"/".join(path).decode(): node for path, node in found if path}


def test_later_layers_win() -> None:
    tree = merged([file("a", b"1"), file("b", b"22")], [file("a", b"333")])
    assert {name: node.size for name, node in tree.items()} == {"a": 3, "b": 2}
    assert tree["a"].content[0] == 1


def test_a_whiteout_hides_a_file_and_a_directory() -> None:
    base = [file("a"), directory("d"), file("d/x"), file("keep")]
    assert set(merged(base, [whiteout("a"), whiteout("d")])) == {"keep"}


def test_a_whiteout_does_not_hide_its_own_layer_in_either_order() -> None:
    base = [directory("d"), file("d/old")]
    for layer in ([file("d/new"), whiteout("d")], [whiteout("d"), file("d/new")]):
        assert set(merged(base, layer)) == {"d", "d/new"}


def test_an_opaque_directory_hides_only_lower_layers() -> None:
    base = [directory("d"), file("d/old"), directory("d/sub"), file("d/sub/old"), file("x")]
    layer = [file("d/sub/new"), opaque("d")]
    assert set(merged(base, layer)) == {"d", "d/sub", "d/sub/new", "x"}


def test_a_whiteout_of_a_missing_path_does_nothing() -> None:
    assert set(merged([file("a")], [whiteout("b"), whiteout("no/such"), opaque("b")])) == {"a"}


def test_files_and_directories_replace_each_other() -> None:
    assert set(merged([directory("d"), file("d/x")], [file("d")])) == {"d"}
    tree = merged([file("d")], [directory("d"), file("d/x")])
    assert set(tree) == {"d", "d/x"}
    assert tree["d"].is_dir


def test_a_directory_entry_keeps_the_children_and_takes_the_new_mode() -> None:
    tree = merged([directory("d"), file("d/x")], [directory("d", 0o700)])
    assert set(tree) == {"d", "d/x"}
    assert stat.S_IMODE(tree["d"].mode) == 0o700


def test_hard_links_share_one_node_across_layers() -> None:
    tree = merged([file("a", b"1")], [hard_link("b", "a")], [hard_link("c", "/b")])
    assert tree["a"] is tree["b"] is tree["c"]


def test_attributes_of_a_hard_links_entry_are_ignored() -> None:
    """Writers omit attributes there, and a second name must not lose a capability."""
    headers = {"SCHILY.xattr.security.capability": "c"}
    base = [file("ping", b"1", 0o4755, uid=1, mtime=5, pax_headers=headers)]
    tree = merged(base, [hard_link("ping4", "ping", 0o600, uid=2), hard_link("ping", "ping4")])
    ping = tree["ping4"]
    assert tree["ping"] is ping
    assert (stat.S_IMODE(ping.mode), ping.uid, ping.mtime_ns) == (0o4755, 1, 5_000_000_000)
    assert ping.xattrs == ((b"security.capability", b"c"),)


def test_a_symlink_always_has_mode_0777() -> None:
    tree = merged([symlink("a", "x", mode=0o4600)], [hard_link("b", "a", 0o644)])
    assert tree["a"].mode == tree["b"].mode == stat.S_IFLNK | 0o777


def test_a_hard_link_outlives_the_whiteout_of_its_target() -> None:
    tree = merged([file("a", b"1")], [hard_link("b", "a"), whiteout("a")])
    assert set(tree) == {"b"}
    assert tree["b"].size == 1


def test_replacing_one_name_leaves_the_other_link_alone() -> None:
    tree = merged([file("a", b"1"), hard_link("b", "a")], [file("a", b"22")])
    assert (tree["a"].size, tree["b"].size) == (2, 1)


def test_a_symlinked_parent_is_followed_inside_the_root() -> None:
    base = [directory("usr/bin"), symlink("bin", "usr/bin"), symlink("abs", "/usr/bin")]
    tree = merged(base, [file("bin/x"), file("abs/y")])
    assert {"usr/bin/x", "usr/bin/y"} <= set(tree)
    assert tree["bin"].is_link


def test_a_symlink_that_climbs_ends_at_the_images_root() -> None:
    tree = merged([symlink("evil", "../../../../etc")], [file("evil/passwd", b"x")])
    assert set(tree) == {"evil", "etc", "etc/passwd"}


@pytest.mark.parametrize(
    "layers,reason",
    [
        ([[file("a")], [file("a/b")]], "no directory"),
        ([[symlink("a", "a"), file("a/b")]], "loop"),
        ([[symlink("a", "b"), symlink("b", "a"), file("a/x")]], "loop"),
        ([[hard_link("a", "missing")]], "is missing"),
        ([[hard_link("a", "../../etc/passwd")]], "climbs"),
        ([[directory("d"), hard_link("a", "d")]], "to a directory"),
        ([[hard_link("a", "/")]], "is missing"),
        ([[file(".wh..")]], "malformed whiteout"),
        ([[file(".wh.")]], "malformed whiteout"),
        ([[file(".", b"x")]], "root"),
        ([[symlink("a", "n" * 300), file("a/b")]], "too long"),
    ],
)
def test_impossible_layers_are_refused(layers: Sequence[Layer], reason: str) -> None:
    with pytest.raises(ImageCorrupt, match=reason):
        merged(*layers)


def test_symlinks_do_not_lead_deeper_than_the_limit() -> None:
    layers: list[Layer] = [[directory("a/" * 100)]]
    layers += [[symlink("l", "a/" * 100), file("l/" + "b/" * 100 + "x")]]
    with pytest.raises(ImageCorrupt, match=r"too deeply"):
        merged(*layers)


def test_entries_are_counted_over_all_layers() -> None:
    with pytest.raises(ImageCorrupt, match=r"more than 3 entries"):
        merged([file("a"), file("b")], [file("c"), file("d")], limits=Limits(entries=3))


components = st.sampled_from(["a", "b", "c"])
places = st.lists(components, min_size=1, max_size=3).map("/".join)
actions = st.tuples(st.sampled_from(["file", "dir", "whiteout", "opaque"]), places)


def _model(layers: Sequence[Sequence[tuple[str, str]]]) -> dict[str, str] | None:
    """Apply layers to {path: 'dir' | 'file N'}; return None if a layer is impossible."""
    tree: dict[str, str] = {}
    for number, layer in enumerate(layers):
        fresh: set[str] = set()
        for action, path in layer:
            below = path + "/"
            parents = [path[:i] for i, letter in enumerate(path) if letter == "/"]
            if action in {"whiteout", "opaque"}:
                gone = {p for p in tree if p.startswith(below)}
                if action == "whiteout":
                    gone.add(path)
                for name in gone - fresh:
                    tree.pop(name, None)
                continue
            if any(tree.get(parent, "dir") != "dir" for parent in parents):
                return None
            if action == "file" or tree.get(path, "dir") != "dir":
                for name in [p for p in tree if p.startswith(below)]:
                    del tree[name]
            tree.update(dict.fromkeys(parents, "dir"))
            tree[path] = "dir" if action == "dir" else f"file {number}"
            fresh |= {path, *parents}
    return tree


def _members(layer: Sequence[tuple[str, str]]) -> list[Member]:
    makers = {"file": file, "dir": directory, "whiteout": whiteout, "opaque": opaque}
    return [makers[action](path) for action, path in layer]


@given(st.lists(st.lists(actions, max_size=6), max_size=4))
def test_merging_agrees_with_the_model(layers: list[list[tuple[str, str]]]) -> None:
    expected = _model(layers)
    if expected is None:
        with pytest.raises(ImageCorrupt):
            merged(*map(_members, layers))
        return
    tree = merged(*map(_members, layers))
    found = {p: "dir" if n.is_dir else f"file {n.content[0]}" for p, n in tree.items()}
    assert found == expected


def test_the_steps_of_following_links_are_limited() -> None:
    links = [symlink("l0", "/" + "./" * 1000 + "d"), directory("d")]
    names = [file(f"l0/{n}") for n in range(100)]
    assert len(merged([*links, *names])) == 102
    with pytest.raises(ImageCorrupt, match="too long to follow"):
        merged([*links, *names], limits=Limits(steps=20_000))


def test_the_sum_of_names_of_all_layers_is_limited() -> None:
    one, two = [file("a" * 100)], [file("b" * 100)]
    assert len(merged(one, two)) == 2
    with pytest.raises(ImageCorrupt, match="take more than 150 bytes"):
        merged(one, two, limits=Limits(metadata_bytes=150))
