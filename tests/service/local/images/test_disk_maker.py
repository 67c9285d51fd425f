# SPDX-License-Identifier: Apache-2.0
"""Disks made in a child process: same disk, same errors, limited memory, killed when cancelled."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic

import anyio
import pytest
from tests.support.images import directory, file, symlink, write_layout
from tests.support.small_disk import needs_root, small_disk
from tests.support.waiting import cancelled, until

from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.layers import UnpackedLayers, flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import ResolvedImage
from waggle.infra.rootfs.disk import RootDisks
from waggle.service.local.images.disk_maker import DiskMaker
from waggle.tasks import end

pytestmark = pytest.mark.anyio


@pytest.fixture
def image(tmp_path: Path) -> ResolvedImage:
    layers = [[directory("etc"), file("etc/os", b"x" * 5000)], [file("small", b"s")]]
    write_layout(tmp_path / "images", layers, name="img")
    return ImageStore(tmp_path / "images").resolve("img")


@pytest.fixture
def disks(tmp_path: Path) -> RootDisks[ResolvedImage]:
    return RootDisks(tmp_path / "disks", flatten)


@pytest.fixture
def layers(tmp_path: Path) -> UnpackedLayers:
    return UnpackedLayers(tmp_path / "layers")


def left_behind(cache: Path) -> list[str]:
    """List what is in the cache besides disks and lock files."""
    return [p.name for p in cache.glob("*") if not p.name.endswith((".erofs", ".lock"))]


def stalling(tmp_path: Path, before: str = "") -> tuple[str, ...]:
    """Return a child that writes its process id to a file and never ends."""
    program = f"""
import os, pathlib, signal, sys
{before}
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
signal.pause()
"""
    return sys.executable, "-c", program


async def test_a_disk_made_in_a_child_equals_one_made_in_this_process(
    tmp_path: Path,
    image: ResolvedImage,
    disks: RootDisks[ResolvedImage],
    layers: UnpackedLayers,
) -> None:
    seen: list[float] = []
    path = await DiskMaker(disks, layers).make(image, lambda share, _: seen.append(share))
    assert path == disks.path(image.digest)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    here = await RootDisks(tmp_path / "here", flatten).ensure(image)
    assert path.read_bytes() == here.read_bytes()
    assert left_behind(disks.directory) == []
    assert await DiskMaker(disks, layers, argv=("/bin/false",)).make(image) == path


async def test_disks_of_many_images_take_turns(
    tmp_path: Path, image: ResolvedImage, disks: RootDisks[ResolvedImage], layers: UnpackedLayers
) -> None:
    """Each child may use 2 GiB, and a client may name another image for every environment."""
    places = anyio.CapacityLimiter(1)
    stuck = DiskMaker(disks, layers, argv=stalling(tmp_path), places=places)
    first = asyncio.create_task(stuck.make(image))
    await until((tmp_path / "pid").exists)
    write_layout(tmp_path / "more", [[file("other", b"y")]], name="other")
    other = ImageStore(tmp_path / "more").resolve("other")
    second = asyncio.create_task(DiskMaker(disks, layers, places=places).make(other))
    await until(lambda: places.statistics().tasks_waiting == 1)
    await end(first)
    assert await second == disks.path(other.digest)


async def test_a_corrupt_layer_is_reported_with_its_remedy(
    tmp_path: Path, image: ResolvedImage, disks: RootDisks[ResolvedImage], layers: UnpackedLayers
) -> None:
    (tmp_path / "images" / "blobs" / "sha256" / image.layers[0].hex).write_bytes(b"no")
    with pytest.raises(ImageCorrupt, match=r"^Image img: .*bytes") as caught:
        await DiskMaker(disks, layers).make(replace(image, remedy="Pull it again."))
    assert caught.value.hint == "Pull it again."
    assert left_behind(disks.directory) == []


async def test_an_error_of_the_host_keeps_its_type(
    image: ResolvedImage, disks: RootDisks[ResolvedImage], layers: UnpackedLayers
) -> None:
    layers.directory.symlink_to("/dev/full/none")
    with pytest.raises(FileExistsError):
        await DiskMaker(disks, layers).make(image)
    assert left_behind(disks.directory) == []


@needs_root
async def test_a_full_disk_raises_enospc_and_the_disk_is_made_later(
    tmp_path: Path, layers: UnpackedLayers
) -> None:
    write_layout(tmp_path / "big", [[file("big", os.urandom(3 << 20))]], name="img")
    image = ImageStore(tmp_path / "big").resolve("img")
    with small_disk(tmp_path / "disk", 8) as disk:
        made = RootDisks[ResolvedImage](disk.path / "disks", flatten)
        disk.fill(leave=1 << 20)
        with pytest.raises(OSError, match="No space left") as caught:
            await DiskMaker(made, layers).make(image)
        assert caught.value.errno == errno.ENOSPC
        assert left_behind(made.directory) == []
        assert made.find(image.digest) is None
        disk.free()
        assert (await DiskMaker(made, layers).make(image)).stat().st_size > 3 << 20


async def test_cancelling_kills_the_child_and_removes_what_it_left(
    tmp_path: Path, image: ResolvedImage, disks: RootDisks[ResolvedImage], layers: UnpackedLayers
) -> None:
    left = disks.directory / ".tmp-left"
    argv = stalling(tmp_path, f"os.makedirs({str(left)!r})")
    task = asyncio.ensure_future(DiskMaker(disks, layers, argv=argv).make(image))
    await until((tmp_path / "pid").exists)
    await until(lambda: (tmp_path / "pid").read_text() != "")
    child = int((tmp_path / "pid").read_text())
    await cancelled(task)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not left.exists()


async def test_a_killed_child_is_reported_with_a_next_step(
    image: ResolvedImage, disks: RootDisks[ResolvedImage], layers: UnpackedLayers
) -> None:
    argv = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ImageCorrupt, match="was killed") as caught:
        await DiskMaker(disks, layers, argv=argv).make(image)
    assert "log" in caught.value.hint


async def test_too_many_files_for_the_memory_limit_end_only_the_child(
    tmp_path: Path, image: ResolvedImage, disks: RootDisks[ResolvedImage], layers: UnpackedLayers
) -> None:
    many = [file(f"d{n % 50}/{n}") for n in range(30_000)]
    write_layout(tmp_path / "images", [many], name="many")
    large = ImageStore(tmp_path / "images").resolve("many")
    maker = DiskMaker(disks, layers, memory=40 << 20)
    with pytest.raises(ImageCorrupt, match="takes too much memory"):
        await maker.make(large)
    assert left_behind(disks.directory) == []
    assert await maker.make(image) == disks.path(image.digest)


@pytest.mark.slow
async def test_links_that_take_too_long_to_follow_are_refused(
    tmp_path: Path, disks: RootDisks[ResolvedImage], layers: UnpackedLayers
) -> None:
    """Each name walks 40 links of 2,000 components: 80,000 steps for 512 bytes of archive."""
    links = [symlink(f"l{n}", "./" * 1000 + f"l{n + 1}") for n in range(39)]
    names = [file(f"l0/{n}") for n in range(3000)]
    write_layout(
        tmp_path / "images", [[*links, directory("l39"), *names]], name="slow", compression="gzip"
    )
    image = ImageStore(tmp_path / "images").resolve("slow")
    began = monotonic()
    with pytest.raises(ImageCorrupt, match="too long to follow"):
        await DiskMaker(disks, layers).make(image)
    assert monotonic() - began < 120
