# SPDX-License-Identifier: Apache-2.0
"""`waggle image build|ls|inspect|rm`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from waggle.cli.progress import say, working
from waggle.config import Settings, load
from waggle.domain.errors import InvalidArgument
from waggle.domain.host import no_progress
from waggle.infra.oci.build import build_image
from waggle.infra.oci.definition import load_definition
from waggle.infra.store.sqlite import SqliteStore
from waggle.places import Places
from waggle.presets import image_service
from waggle.service.images import ImageService


def definitions() -> Path:
    """Where the definitions are: inside an installed wheel, or at the root of a checkout."""
    packaged = Path(__file__).parents[1] / "_data" / "images"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "images"


def build(names: Sequence[str], *, only_missing: bool) -> None:
    """Build the named images, or all, and their disks. Raises InvalidArgument, SetupIncomplete."""
    settings = load()
    images = image_service(settings)
    directory = definitions()
    known = sorted(path.parent.name for path in directory.glob("*/image.toml"))
    for name in names:
        if name not in known:
            raise InvalidArgument(
                f"There is no definition {name[:40]!r}.", hint=f"Known are: {', '.join(known)}."
            )
    for name in names or known:
        if not only_missing or images.digest_of(name) is None:
            definition = load_definition(directory, name)
            with working(f"Building the image {name}") as detail:
                build_image(
                    definition, images.store, settings.debian_mirror, lambda _, text: detail(text)
                )
        _make_disk(images, name)


def _make_disk(images: ImageService, name: str) -> None:
    """Make the disk now, so that the first create does not wait for it."""
    if images.disks.find(images.store.resolve(name).digest) is None:
        with working(f"Making the disk of {name}"):
            anyio.run(images.boot_image, name, no_progress)


def ls(*, as_json: bool) -> None:
    """Print the images as a table, or as a JSON list."""
    stored = image_service(load()).store.list()
    if as_json:
        sys.stdout.write(json.dumps([asdict(image) for image in stored], indent=2) + "\n")
        return
    table = Table("name", "digest", "size", "created", box=None)
    for image in stored:
        size = f"{image.size / 1e6:.1f} MB" if not image.problem else image.problem
        table.add_row(image.name, image.digest[:19], size, image.created)
    Console().print(table if stored else "No images. Build them with 'waggle image build'.")


def inspect(name: str) -> None:
    """Print one image as JSON."""
    image = image_service(load()).store.resolve(name)
    sys.stdout.write(json.dumps(asdict(image), indent=2, default=str) + "\n")


def rm(names: Sequence[str]) -> None:
    """Remove images and their disks; what a running environment uses is refused."""
    if not names:
        raise InvalidArgument("No image was named.", hint="See 'waggle image ls'.")
    settings = load()
    images = image_service(settings)
    used = anyio.run(_digests_in_use, settings)
    for name in names:
        digest = images.digest_of(name)
        freed = images.store.remove(name, used.__contains__)
        if digest is not None:
            images.disks.remove(digest)
        say(f"Removed {name}; {freed / 1e6:.1f} MB are free again.")


async def _digests_in_use(settings: Settings) -> frozenset[str]:
    """Digests that live environments were booted from, by the server's own record."""
    state = Places.of(settings).state
    if not state.exists():
        return frozenset()
    store = await SqliteStore.open(state)
    try:
        records = await store.unfinished()
    finally:
        await store.aclose()
    return frozenset(record.booted_from.get("image", "") for record in records)
