# SPDX-License-Identifier: Apache-2.0
"""Layers are unpacked once, completely or not at all, and shared."""

from __future__ import annotations

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.images import directory, file, hard_link, symlink, tar_bytes

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import DEFAULT_LIMITS
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.layers import UnpackedLayers, _entry, _row
from waggle.infra.oci.layers.layers import Take, read_layer
from waggle.infra.oci.store.image import MEDIA_LAYER, Descriptor

LAYER = [
    directory("etc", 0o1777),
    file("etc/a", b"a" * 5000, 0o4755, uid=1000, gid=7),
    symlink("etc/l", "../a\xff"),
    hard_link("etc/h", "etc/a"),
]
TAR = tar_bytes(LAYER)
DIFF_ID = f"sha256:{hashlib.sha256(TAR).hexdigest()}"
OTHER = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
names = st.binary(min_size=1, max_size=20)
numbers = st.integers(0, 1 << 40)


def unpack(data: Path, take: Take) -> int:
    blob = Descriptor(MEDIA_LAYER, DIFF_ID, len(TAR))
    place = (data, take, DEFAULT_LIMITS)
    return read_layer(io.BytesIO(TAR), blob, DIFF_ID, *place, advance=lambda _: None)


def never(_data: Path, _take: Take) -> int:
    raise AssertionError("it is here already")


@pytest.fixture
def layers(tmp_path: Path) -> UnpackedLayers:
    return UnpackedLayers(tmp_path / "layers")


def test_a_layer_is_unpacked_once_and_found_unchanged(layers: UnpackedLayers) -> None:
    assert layers.find(DIFF_ID) is None
    made = layers.ensure(DIFF_ID, unpack)
    assert made.data.read_bytes().startswith(b"a" * 5000)
    assert layers.ensure(DIFF_ID, never) == made
    assert layers.find(DIFF_ID) == made


def test_a_failed_unpack_leaves_nothing_and_the_next_may_succeed(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    def fails(data: Path, _take: Take) -> int:
        data.write_bytes(b"half")
        raise ImageCorrupt("cut")

    with pytest.raises(ImageCorrupt):
        layers.ensure(DIFF_ID, fails)
    assert [path.name for path in (tmp_path / "layers").iterdir() if path.is_dir()] == []
    assert layers.ensure(DIFF_ID, unpack).entries


def test_two_concurrent_calls_unpack_a_layer_once(layers: UnpackedLayers) -> None:
    calls: list[Path] = []
    inside, released = threading.Event(), threading.Event()

    def slow(data: Path, take: Take) -> int:
        calls.append(data)
        inside.set()
        assert released.wait(10)
        return unpack(data, take)

    threads = [threading.Thread(target=layers.ensure, args=(DIFF_ID, slow)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    released.set()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 1


def test_ensure_does_not_wait_for_a_layer_that_is_still_arriving(layers: UnpackedLayers) -> None:
    inside, released = threading.Event(), threading.Event()

    def slow(data: Path, take: Take) -> int:
        inside.set()
        assert released.wait(10)
        return unpack(data, take)

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(layers.add, DIFF_ID, slow)
        assert inside.wait(10)
        made = layers.ensure(DIFF_ID, unpack)
        released.set()
        adding.result(20)
    assert layers.find(DIFF_ID) == made
    layers.add(DIFF_ID, never)


def test_leftovers_of_a_killed_process_are_removed_but_no_open_workspace(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    left = tmp_path / "layers" / ".tmp-killed"
    (left / "layer").mkdir(parents=True)

    def look(data: Path, take: Take) -> int:
        assert not left.exists()
        layers.ensure(OTHER, unpack)
        assert data.parent.exists()
        return unpack(data, take)

    assert layers.ensure(DIFF_ID, look) == layers.find(DIFF_ID)
    assert not list((tmp_path / "layers").glob(".tmp-*"))


@pytest.mark.parametrize("damage", [b"", b"[[]", b"[[]]\n5", b"[]\n", b"null", b"\xff"])
def test_a_damaged_layer_is_unpacked_again(layers: UnpackedLayers, damage: bytes) -> None:
    made = layers.ensure(DIFF_ID, unpack)
    (made.data.parent / "entries.jsonl").write_bytes(damage)
    assert layers.find(DIFF_ID) is None
    assert layers.ensure(DIFF_ID, unpack) == made


def test_concurrent_failures_leave_nothing_and_raise_their_error(layers: UnpackedLayers) -> None:
    """One call removes its workspace while another call sweeps."""

    def fails(_data: Path, _take: Take) -> int:
        raise ImageCorrupt("cut")

    def attempt(number: int) -> None:
        with pytest.raises(ImageCorrupt):
            layers.ensure(f"sha256:{number:064x}", fails)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, range(200)))
    assert not list(layers.directory.glob(".tmp-*"))


def test_pruning_removes_layers_over_the_limit_but_no_recent_ones(
    layers: UnpackedLayers, tmp_path: Path
) -> None:
    used = layers.ensure(DIFF_ID, unpack).data.parent.stat().st_mtime
    assert layers.prune(0, now=lambda: used + 60) == 0
    assert layers.prune(1 << 30, now=lambda: used + 7200) == 0
    assert layers.prune(0, now=lambda: used + 7200) > 5000
    assert layers.find(DIFF_ID) is None
    assert UnpackedLayers(tmp_path / "none").prune(0) == 0


@pytest.mark.parametrize("text", ["../x", "sha256:..", "md5:1", "sha256:" + "g" * 64, ""])
def test_only_a_digest_names_a_layer(layers: UnpackedLayers, text: str) -> None:
    with pytest.raises(ValueError, match="is not a digest"):
        layers.find(text)


@given(
    st.builds(
        Entry,
        path=st.lists(names).map(tuple),
        mode=numbers,
        uid=numbers,
        gid=numbers,
        mtime_ns=st.integers(-(1 << 62), 1 << 62),
        size=numbers,
        link=names,
        device=st.tuples(numbers, numbers),
        xattrs=st.lists(st.tuples(names, names)).map(tuple),
        offset=numbers,
    )
)
def test_every_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert _entry(_row(entry)) == entry
