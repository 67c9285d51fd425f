# SPDX-License-Identifier: Apache-2.0
"""Images that share a base, against the earlier ones: first results, and size on the disk.

`before/` has the earlier definitions. They are built into a separate cache for a second server;
both servers have templates, whatever the settings say.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.figures import compare
from benchmarks.interleave import Arm, interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import serving
from benchmarks.table import Result
from benchmarks.template import create_and_print, until_made
from waggle.app.values import image_service
from waggle.cli.client import connected
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.domain.host import no_progress
from waggle.infra.oci.build import build_image
from waggle.infra.oci.build.definition import load_definition
from waggle.infra.oci.store import ImageStore

BEFORE = Path(__file__).parent / "before"
NAMES = ("python", "node", "shell")
ROUNDS = 15
MEGABYTE = 1_000_000


async def measure(options: Options) -> list[Result]:
    """Measure the rows of the group `runtimes`."""
    rounds = options.rounds or ROUNDS
    with tempfile.TemporaryDirectory(prefix="waggle-bench-before-") as name:
        settings = load().model_copy(update={"image_cache_dir": Path(name)})
        options.tick("building the images of before")
        await asyncio.to_thread(_build, settings)
        disks = await _disks(load(), settings)
        more = {"WAGGLE_TEMPLATES": "on"}
        async with (
            serving(more=more) as ours,
            serving(more={**more, "WAGGLE_IMAGE_CACHE_DIR": name}) as theirs,
            connected(ours.url) as client,
            connected(theirs.url) as before,
        ):
            arms: dict[str, Arm] = {
                "python": partial(create_and_print, client),
                "data": partial(create_and_print, client, "data"),
                "before": partial(create_and_print, before),
            }
            for key, arm in arms.items():
                options.tick(f"the template of {key}")
                await until_made(arm, Places.of(settings if key == "before" else load()).templates)
            seconds = await interleave(arms, rounds=rounds, tick=options.tick)
    return [
        ratio("first-python", compare(seconds["python"], seconds["before"])),
        ratio("first-data", compare(seconds["data"], seconds["before"])),
        disks,
    ]


def _build(settings: Settings) -> None:
    """Build the earlier images, with the current kernel and kit, in a separate cache."""
    places = Places.of(settings)
    shutil.copytree(Places.of(load()).guest, places.guest)
    for name in NAMES:
        definition = load_definition(BEFORE, name)
        build_image(definition, ImageStore(places.images), settings.debian_mirror)


async def _disks(now: Settings, before: Settings) -> Result:
    """Measure the row `image-disks`. The shell image is the base: it adds nothing."""
    sizes = await _sizes(now)
    once = sizes["python"] + sizes["node"] - sizes["shell"]
    then = sum((await _sizes(before)).values())
    how = ", ".join(f"{name} {_shown(size)}" for name, size in sizes.items())
    return Result("image-disks", once / then, _shown(once), _shown(then), f"disks: {how}")


async def _sizes(settings: Settings) -> dict[str, int]:
    service = image_service(settings)
    made = {name: await service.boot_image(name, no_progress) for name in NAMES}
    return {name: image.disk.stat().st_size for name, image in made.items()}


def _shown(size: int) -> str:
    return f"{size / MEGABYTE:.0f} MB"
