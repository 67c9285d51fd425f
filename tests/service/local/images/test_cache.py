# SPDX-License-Identifier: Apache-2.0
"""Pruning of a real store with real disks: what it removes and keeps, also in a race."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from tests.support.images import directory, file, write_layout

from waggle.infra.oci.layers import UnpackedLayers, flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import ResolvedImage
from waggle.infra.rootfs.disk import RootDisks
from waggle.infra.shared.files import FileLock
from waggle.service.local.images.cache import ImageCache

SHARED = [directory("etc"), file("etc/shared", b"s" * 5000)]


def unused(_digest: str) -> bool:
    return False


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    """A cache of three images, used at 100, 200 and 300 seconds; the second has a disk."""
    store = ImageStore(tmp_path / "images")
    disks: RootDisks[ResolvedImage] = RootDisks(tmp_path / "disks", flatten)
    cache = ImageCache(store, disks, UnpackedLayers(tmp_path / "layers"))
    for number, name in enumerate(("a", "b", "c"), 1):
        layers = [SHARED, [file(name, os.urandom(2000))]]
        write_layout(store.layout.path, layers, name=name, compression="")
        used(cache, name, number * 100)
    anyio.run(disks.ensure, store.resolve("b"))
    os.utime(disks.path(digest(cache, "b")), (200, 200))
    return cache


def digest(cache: ImageCache, name: str) -> str:
    return cache.store.resolve(name).digest


def used(cache: ImageCache, name: str, when: int) -> None:
    path = cache.store.layout.path / "blobs" / "sha256" / digest(cache, name)[7:]
    os.utime(path, (when, when))


def names(cache: ImageCache) -> list[str]:
    return [image.name for image in cache.store.list()]


def on_disk(cache: ImageCache) -> int:
    """Count the bytes of all blobs and disks in the file system."""
    blobs = [*(cache.store.layout.path / "blobs" / "sha256").iterdir()]
    disks = [cache.disks.path(disk.digest) for disk in cache.disks.made()]
    return sum(path.stat().st_size for path in (*blobs, *disks))


def prune(
    cache: ImageCache,
    *,
    max_bytes: int | None = None,
    older_than: float | None = None,
    in_use: Callable[[str], bool] = unused,
    pinned: tuple[str, ...] = (),
) -> list[str]:
    before = on_disk(cache)
    plan = cache.prune(max_bytes=max_bytes, older_than=older_than, in_use=in_use, pinned=pinned)
    assert (before - on_disk(cache), on_disk(cache)) == (plan.freed_bytes, plan.kept_bytes)
    return [name for image in plan.remove for name in image.names]


def test_the_survey_counts_every_byte_once(cache: ImageCache) -> None:
    survey = cache.survey()
    assert sorted(image.used for image in survey) == [100, 200, 300]
    assert [bool(image.disk_bytes) for image in sorted(survey, key=lambda i: i.used)] == [
        *(False, True, False)
    ]
    assert prune(cache) == []
    assert names(cache) == ["a", "b", "c"]


def test_images_are_pruned_by_age(cache: ImageCache) -> None:
    assert prune(cache, older_than=200) == ["a"]
    assert prune(cache, older_than=201) == ["b"]
    assert cache.disks.made() == []
    assert names(cache) == ["c"]


def test_pruning_by_size_removes_the_least_recently_used_first(cache: ImageCache) -> None:
    cache.store.note_use(cache.store.resolve("a"))
    whole = on_disk(cache)
    assert prune(cache, max_bytes=whole) == []
    assert prune(cache, max_bytes=whole - 1) == ["b"]
    assert prune(cache, max_bytes=0) == ["c", "a"]


def test_images_used_while_pruning_are_kept(cache: ImageCache) -> None:
    early = dataclasses.replace(cache, now=lambda: 150.0)
    assert prune(early, max_bytes=0) == ["a"]
    assert names(cache) == ["b", "c"], "their last use is after the beginning"


def test_using_the_disk_counts_as_using_the_image(cache: ImageCache) -> None:
    assert cache.disks.find(digest(cache, "b"))
    assert prune(cache, older_than=1_000_000) == ["a", "c"]
    assert names(cache) == ["b"]


def test_images_in_use_or_pinned_are_kept(cache: ImageCache) -> None:
    running, named = digest(cache, "a"), digest(cache, "b")
    assert prune(cache, max_bytes=0, in_use={running}.__contains__, pinned=(named,)) == ["c"]
    assert names(cache) == ["a", "b"]
    assert len(cache.disks.made()) == 1


def test_an_image_that_comes_into_use_after_planning_is_kept(cache: ImageCache) -> None:
    queries: list[str] = []

    def in_use(image: str) -> bool:
        queries.append(image)
        return len(queries) > 3 and image == digest(cache, "b")

    assert prune(cache, max_bytes=0, in_use=in_use) == ["a", "c"]
    assert names(cache) == ["b"]


def test_all_names_of_an_image_are_removed_together(cache: ImageCache) -> None:
    layout = cache.store.layout
    with layout.locked():
        entry = layout.names()["a"]
        layout.tag("again", entry.digest, entry.size)
    assert prune(cache, older_than=150) == ["a", "again"]


def test_unused_disks_and_leftovers_are_removed(cache: ImageCache, tmp_path: Path) -> None:
    cache.store.remove("b", unused)
    old = tmp_path / "disks" / f"{'1' * 64}.v0.erofs"
    old.write_bytes(b"of another format")
    dead = tmp_path / "disks" / ".tmp-dead"
    busy = tmp_path / "disks" / ".tmp-busy"
    for path in (dead, busy):
        path.mkdir()
    with FileLock(busy / ".lock"):
        assert prune(cache, older_than=250) == ["a"]
    assert cache.disks.made() == []
    assert [path.exists() for path in (old, dead, busy)] == [False, False, True]
    assert names(cache) == ["c"]


def test_a_damaged_image_can_be_pruned(cache: ImageCache) -> None:
    path = cache.store.layout.path / "blobs" / "sha256" / digest(cache, "a")[7:]
    path.write_bytes(b"damage")
    os.utime(path, (100, 100))
    cache.prune(max_bytes=None, older_than=150, in_use=unused)
    assert names(cache) == ["b", "c"]


def test_an_empty_cache(tmp_path: Path) -> None:
    cache = ImageCache(
        ImageStore(tmp_path / "x"),
        RootDisks(tmp_path / "y", flatten),
        UnpackedLayers(tmp_path / "z"),
    )
    plan = cache.prune(max_bytes=0, older_than=None, in_use=unused)
    assert (plan.remove, plan.freed_bytes) == ((), 0)
