# SPDX-License-Identifier: Apache-2.0
"""The cache of root disks: a disk is made once, completely or not at all, and pruned if unused."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import pytest
from tests.support.images import directory, file, write_layout

from waggle.domain.errors import ImageCorrupt, InvalidArgument
from waggle.infra.oci.layers import FlatImage, flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import ResolvedImage
from waggle.infra.rootfs.disk import RootDisks
from waggle.infra.rootfs.erofs import Advance

pytestmark = pytest.mark.anyio


@pytest.fixture
def image(tmp_path: Path) -> ResolvedImage:
    layers = [[directory("etc"), file("etc/os", b"x" * 5000)], [file("small", b"s")]]
    write_layout(tmp_path / "images", layers, name="img")
    return ImageStore(tmp_path / "images").resolve("img")


@dataclass
class Counted:
    """`flatten` with a count of its calls and an optional gate."""

    calls: int = 0
    entered: Event | None = None
    gate: Event | None = None

    def __call__(self, image: ResolvedImage, workspace: Path, progress: Advance) -> FlatImage:
        self.calls += 1
        if self.entered:
            self.entered.set()
        if self.gate:
            assert self.gate.wait(20)
        return flatten(image, workspace, progress)


def left_behind(cache: Path) -> list[str]:
    """List the cache's files other than disks and lock files."""
    return [p.name for p in cache.iterdir() if not p.name.endswith((".erofs", ".lock"))]


async def test_makes_a_read_only_disk_and_reports_progress(
    tmp_path: Path, image: ResolvedImage
) -> None:
    seen: list[float] = []
    disks = RootDisks(tmp_path / "cache", flatten)
    path = await disks.ensure(image, lambda fraction, _: seen.append(fraction))
    assert path == disks.path(image.digest)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert path.stat().st_size % 4096 == 0
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert left_behind(tmp_path / "cache") == []


async def test_a_disk_is_made_once_for_concurrent_and_later_calls(
    tmp_path: Path, image: ResolvedImage
) -> None:
    counted = Counted()
    one, two = RootDisks(tmp_path / "c", counted), RootDisks(tmp_path / "c", counted)
    paths = await asyncio.gather(*(disks.ensure(image) for disks in (one, two, one, two)))
    await one.ensure(image)
    assert len(set(paths)) == 1
    assert counted.calls == 1


async def test_equal_images_make_equal_disks(tmp_path: Path, image: ResolvedImage) -> None:
    first = await RootDisks(tmp_path / "a", flatten).ensure(image)
    second = await RootDisks(tmp_path / "b", flatten).ensure(image)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
async def test_a_corrupt_layer_leaves_nothing_and_names_the_remedy(
    tmp_path: Path, image: ResolvedImage, damage: str
) -> None:
    blob = tmp_path / "images" / "blobs" / "sha256" / image.layers[0].hex
    data = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        changed = bytes((*data[:-1], data[-1] ^ 1))
        blob.write_bytes(data[:-1] if damage == "truncated" else changed)
    with pytest.raises(ImageCorrupt) as caught:
        await RootDisks(tmp_path / "c", flatten).ensure(replace(image, remedy="Do this."))
    assert image.reference in caught.value.message
    assert caught.value.hint == "Do this."
    if damage != "changed":
        assert image.layers[0].digest in caught.value.message
    assert [p.name for p in (tmp_path / "c").iterdir() if p.suffix != ".lock"] == []


async def test_cancelling_stops_the_work_and_leaves_nothing(
    tmp_path: Path, image: ResolvedImage
) -> None:
    counted = Counted(entered=Event(), gate=Event())
    assert counted.entered
    assert counted.gate
    task = asyncio.ensure_future(RootDisks(tmp_path / "c", counted).ensure(image))
    await asyncio.to_thread(counted.entered.wait, 20)
    task.cancel()
    counted.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_behind(tmp_path / "c") == []
    assert not RootDisks(tmp_path / "c", flatten).find(image.digest)
    await RootDisks(tmp_path / "c", flatten).ensure(image)


async def test_leftovers_of_a_killed_writer_are_ignored_and_removed(
    tmp_path: Path, image: ResolvedImage
) -> None:
    program = """
        import asyncio, pathlib, sys, threading
        from waggle.infra.oci.layers import flatten
        from waggle.infra.oci.store import ImageStore
        from waggle.infra.rootfs.disk import RootDisks

        def stall(image, workspace, progress):
            flatten(image, workspace, progress)
            (workspace / "disk").write_bytes(b"half")
            print("half", flush=True)
            threading.Event().wait()

        image = ImageStore(pathlib.Path(sys.argv[1])).resolve("img")
        asyncio.run(RootDisks(pathlib.Path(sys.argv[2]), stall).ensure(image))
    """
    cache = tmp_path / "c"
    argv = [sys.executable, "-c", textwrap.dedent(program), tmp_path / "images", cache]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    disks = RootDisks(cache, flatten)
    assert disks.find(image.digest) is None
    assert left_behind(cache) != []
    await disks.ensure(image)
    assert left_behind(cache) == []


async def test_removing_is_idempotent(tmp_path: Path, image: ResolvedImage) -> None:
    disks = RootDisks(tmp_path / "c", flatten)
    assert disks.remove(image.digest) is False
    path = await disks.ensure(image)
    with path.open("rb") as in_use:
        assert disks.remove(image.digest) is True
        assert in_use.read(1) == b"\0"  # a machine that has it open can still read it
    assert disks.remove(image.digest) is False
    assert not path.exists()


async def test_prune_removes_only_old_and_unused_disks(
    tmp_path: Path, image: ResolvedImage
) -> None:
    disks = RootDisks(tmp_path / "c", flatten)
    digests = [f"sha256:{n:064x}" for n in range(3)]
    for digest in digests:
        path = await disks.ensure(replace(image, digest=digest))
        os.utime(path, (1000, 1000))
    disks.find(digests[2])  # used just now
    former = tmp_path / "c" / f"{5:064x}.v0.erofs"
    former.write_bytes(b"")
    (tmp_path / "c" / "stranger.erofs").write_bytes(b"")
    assert disks.prune(2000, {digests[0]}.__contains__) == [digests[1], f"sha256:{5:064x}"]
    assert disks.find(digests[0])
    assert disks.find(digests[2])
    assert disks.find(digests[1]) is None
    assert (tmp_path / "c" / "stranger.erofs").exists()


@pytest.mark.parametrize("digest", ["", "sha256:xyz", "../../etc", "sha256:" + "A" * 64])
async def test_a_malformed_digest_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        RootDisks(tmp_path, flatten).path(digest)
