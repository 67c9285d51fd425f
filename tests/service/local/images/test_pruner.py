# SPDX-License-Identifier: Apache-2.0
"""The server's pruning: hourly, within limits, and never of images in use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from tests.service.world import World, world
from tests.support.images import file, write_layout
from tests.support.waiting import cancelled

from waggle.domain.programs.runtime import RuntimeName
from waggle.service.local.images.images import INTERVAL_SECONDS, ImageService, Pruner

pytestmark = pytest.mark.anyio
NOW = 2_000_000_000.0
DAY = 86_400.0


@dataclass
class Rig:
    """A store whose images were used some days ago, each with its disk, and a pruner's clock."""

    images: ImageService
    here: World
    slept: list[float] = field(default_factory=list[float])
    resumed: anyio.Event = field(default_factory=anyio.Event)

    def pruner(self, *, max_bytes: int | None = None, days: float = 7) -> Pruner:
        return Pruner(
            self.images,
            lambda: frozenset(
                environment.booted_from.get("image", "") for environment in self.here.service.all()
            ),
            max_bytes=max_bytes,
            max_age=timedelta(days=days),
            now=lambda: NOW,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        """Let two hours pass at once, then sleep forever."""
        self.slept.append(seconds)
        if len(self.slept) == 3:
            self.resumed.set()
            await anyio.sleep_forever()

    async def bring(self, name: str, days_ago: float) -> str:
        path = self.images.store.layout.path
        digest = write_layout(path, [[file(name, os.urandom(20_000))]], name=name)
        disk = await self.images.disks.ensure(self.images.store.resolve(name))
        when = NOW - days_ago * DAY
        for used in (disk, path / "blobs" / "sha256" / digest[7:]):
            os.utime(used, (when, when))
        return digest

    def disks(self) -> set[str]:
        return {disk.digest for disk in self.images.disks.made()}

    def names(self) -> list[str]:
        return [entry.name for entry in self.images.store.list()]


def rig(tmp_path: Path, here: World) -> Rig:
    images = ImageService(
        store=tmp_path / "images",
        disks=tmp_path / "disks",
        layers=tmp_path / "layers",
        runtimes={RuntimeName.SHELL: "shell"},
    )
    return Rig(images, here)


async def running(this: Rig, digest: str) -> None:
    """Create an environment that was booted from that image."""
    environment = await this.here.created()
    environment.booted_from["image"] = digest


async def test_old_disks_are_removed_and_images_are_kept(tmp_path: Path) -> None:
    async with world() as here:
        this = rig(tmp_path, here)
        old, new = await this.bring("old", 8), await this.bring("new", 6)
        assert await this.pruner().prune() == [old]
        assert this.disks() == {new}
        assert this.names() == ["new", "old"]
        assert await this.pruner().prune() == []


async def test_over_the_limit_the_least_recently_used_image_is_removed(tmp_path: Path) -> None:
    async with world() as here:
        this = rig(tmp_path, here)
        oldest = await this.bring("oldest", 3)
        await this.bring("newer", 2)
        kept = sum(disk.size for disk in this.images.disks.made())
        assert await this.pruner(max_bytes=kept).prune() == [oldest]
        assert this.names() == ["newer"]
        assert oldest not in this.disks()


async def test_images_of_runtimes_and_running_environments_are_always_kept(
    tmp_path: Path,
) -> None:
    async with world() as here:
        this = rig(tmp_path, here)
        used, runtime = await this.bring("used", 30), await this.bring("shell", 1)
        await running(this, used)
        gone = await this.bring("gone", 30)
        assert set(await this.pruner(max_bytes=0).prune()) == {gone}
        assert this.names() == ["shell", "used"]
        assert this.disks() == {used, runtime}


async def test_unpacked_layers_are_kept_as_far_as_the_limit_leaves_room(tmp_path: Path) -> None:
    async with world() as here:
        this = rig(tmp_path, here)
        layer = tmp_path / "layers" / ("0" * 64 + ".v2")
        layer.mkdir(parents=True)
        (layer / "data").write_bytes(bytes(5000))
        os.utime(layer, (NOW - DAY, NOW - DAY))
        assert await this.pruner().prune() == []
        assert layer.exists(), "without a bound"
        await this.pruner(max_bytes=6000).prune()
        assert layer.exists()
        await this.pruner(max_bytes=4000).prune()
        assert not layer.exists()


async def test_it_prunes_at_once_and_hourly_and_continues_after_a_failure(
    tmp_path: Path, logged: list[MutableMapping[str, object]]
) -> None:
    async with world() as here:
        this = rig(tmp_path, here)
        old = await this.bring("old", 8)
        index = tmp_path / "images" / "index.json"
        index.write_text("no JSON")
        task = asyncio.create_task(this.pruner(max_bytes=1 << 40).run())
        await this.resumed.wait()
        await cancelled(task)
        assert this.slept == [INTERVAL_SECONDS] * 3
        failed = [entry for entry in logged if entry["event"] == "prune_failed"]
        assert len(failed) == 3
        assert all(entry["exc_info"] for entry in failed)
        assert old not in this.disks(), "what could be done was done"


async def test_only_a_prune_that_removed_something_is_logged(
    tmp_path: Path, logged: list[MutableMapping[str, object]]
) -> None:
    async with world() as here:
        this = rig(tmp_path, here)
        old = await this.bring("old", 8)
        task = asyncio.create_task(this.pruner().run())
        await this.resumed.wait()
        await cancelled(task)
        pruned = [entry for entry in logged if entry["event"] == "images_pruned"]
        assert [entry["digests"] for entry in pruned] == [[old]]
