# SPDX-License-Identifier: Apache-2.0
"""From a registry to a bootable disk: waggle, against skopeo, umoci and mkfs.erofs in sequence.

The registry is Debian's docker-registry on loopback. Both sides start with nothing every time; a
second image shares five of six layers with the first, which is already present.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support.registry import Registry, run_registry

from benchmarks.cold import create_and_run
from benchmarks.figures import Comparison, compare
from benchmarks.image_layers import make_layer, push, run
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.process import peak_bytes, resident_bytes
from benchmarks.results import ratio
from benchmarks.server import Server, serving
from benchmarks.table import Result
from waggle.app.values import image_service
from waggle.cli.client import connected
from waggle.domain.host import no_progress
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.oci.registry.options import RegistryOptions
from waggle.service.local.images.images import ImageService
from waggle.service.local.images.pulls import PullPolicy

ROUNDS = 5
CREATES = 15
"""Rounds of `create-cached`, whose two sides are nearly the same."""
LAYERS = 6
LAYER_BYTES = 25_000_000
"""Size of a layer as it is stored."""
MEGABYTE = 1_000_000
HUGE = "huge:v1"
CACHED = "registry.example/benchmarks/shell:v1"
HUGE_LAYERS, HUGE_LAYER_BYTES = 4, 250_000_000


async def measure(options: Options) -> list[Result]:
    """Measure the rows `pull-cold`, `pull-shared`, `pull-memory` and `create-cached`."""
    rounds = options.rounds or ROUNDS
    with tempfile.TemporaryDirectory(prefix="waggle-images-") as name:
        work = Path(name)
        with run_registry(work / "registry") as registry:
            options.tick("making images")
            layers = [make_layer(number, LAYER_BYTES) for number in range(LAYERS + 1)]
            await push(registry.name, work, "first:v1", layers[:LAYERS])
            await push(registry.name, work, "second:v1", [*layers[: LAYERS - 1], layers[LAYERS]])
            bench = _Bench(registry, work)
            cold = await interleave(
                {"ours": bench.first, "theirs": bench.other_tools},
                rounds=rounds,
                tick=options.tick,
            )
            shared = await interleave(
                {"first": bench.first, "second": bench.second}, rounds=rounds, tick=options.tick
            )
            huge = [make_layer(100 + n, HUGE_LAYER_BYTES) for n in range(HUGE_LAYERS)]
            await push(registry.name, work, HUGE, huge)
            peak = await _peak(registry, work)
    async with serving(more={"WAGGLE_ALLOWED_IMAGES": CACHED}) as server:
        cached = await _cached(server, options.rounds or CREATES, options)
    return [
        ratio("pull-cold", compare(cold["ours"], cold["theirs"])),
        ratio("pull-shared", compare(shared["second"], shared["first"])),
        Result("pull-memory", peak / MEGABYTE, f"{peak / MEGABYTE:.1f} MB", "", "one pull"),
        ratio("create-cached", cached),
    ]


async def _cached(server: Server, rounds: int, options: Options) -> Comparison:
    """Compare creates from the shell image under a registry's name with the runtime's own image."""
    store = image_service(server.settings).store
    entry = store.find(server.settings.image_shell)[1]
    with store.layout.locked():
        store.layout.tag(CACHED, entry.digest, entry.size, entry.media_type)
    try:
        async with connected(server.url) as client:
            seconds = await interleave(
                {
                    "named": lambda: create_and_run(client, CACHED),
                    "own": lambda: create_and_run(client),
                },
                rounds=rounds,
                tick=options.tick,
            )
    finally:
        store.remove(CACHED, lambda _: False)
    return compare(seconds["named"], seconds["own"])


class _Bench:
    def __init__(self, registry: Registry, work: Path) -> None:
        self._registry = registry
        self._work = work
        self._last: Path | None = None
        self._fresh = False

    async def first(self) -> float:
        """Return the seconds from nothing to the first image's disk, which stays for `second`."""
        if self._last is not None:
            await asyncio.to_thread(shutil.rmtree, self._last)
        self._last = Path(tempfile.mkdtemp(dir=self._work))
        self._fresh = True
        return await self._pull(self._last, "first:v1")

    async def second(self) -> float:
        """Return the seconds to the second image's disk, without those of the first one's pull."""
        if not self._fresh:
            await self.first()
        assert self._last is not None
        self._fresh = False
        return await self._pull(self._last, "second:v1")

    async def _pull(self, directory: Path, name: str) -> float:
        service = images(self._registry, directory)
        began = time.perf_counter()
        await service.boot_image(f"{self._registry.name}/{name}", no_progress)
        return time.perf_counter() - began

    async def other_tools(self) -> float:
        """Return the seconds of skopeo, umoci and mkfs.erofs for the first image."""
        source = f"docker://{self._registry.name}/first:v1"
        with tempfile.TemporaryDirectory(dir=self._work) as name:
            began = time.perf_counter()
            await run(
                "skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{name}/oci:v1"
            )
            await run("umoci", "unpack", "--image", f"{name}/oci:v1", f"{name}/bundle")
            await run("mkfs.erofs", "--quiet", f"{name}/disk", f"{name}/bundle/rootfs")
            return time.perf_counter() - began


def images(registry: Registry, directory: Path) -> ImageService:
    """Return a service that knows only the content of `directory`."""
    options = RegistryOptions(insecure=frozenset({registry.name}))
    return ImageService(
        store=directory / "images",
        disks=directory / "disks",
        layers=directory / "layers",
        runtimes={RuntimeName.SHELL: "shell"},
        pulling=PullPolicy(options),
    )


async def _peak(registry: Registry, work: Path) -> int:
    """Return the growth of a separate process that pulls 1 GB and makes a disk of it."""
    argv = [sys.executable, "-m", "benchmarks.images", registry.name, str(work / "peak")]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the pull ended with status {process.returncode}")
    return int(said)


async def _pull_and_report(name: str, directory: Path) -> None:
    """Run the other process of `_peak`: print the bytes of its largest growth."""
    importlib.import_module("waggle.infra.oci.registry")  # so that it counts as idle
    registry = Registry(int(name.rpartition(":")[2]), 0)
    idle = resident_bytes(os.getpid())
    await images(registry, directory).boot_image(f"{name}/{HUGE}", no_progress)
    print(peak_bytes(os.getpid()) - idle)


if __name__ == "__main__":
    asyncio.run(_pull_and_report(sys.argv[1], Path(sys.argv[2])))
