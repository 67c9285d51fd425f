# SPDX-License-Identifier: Apache-2.0
"""`waggle image build|ls|inspect|rm`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import anyio
import anyio.to_thread

from waggle.app import image_service
from waggle.cli.progress import say, working
from waggle.config import Settings, load
from waggle.domain.environment import LIVE_STATES
from waggle.domain.errors import InvalidArgument
from waggle.infra.store.sqlite import SqliteStore
from waggle.places import Places
from waggle.service.images import ImageService


def build(names: Sequence[str], *, only_missing: bool) -> None:
    """Build the named images, or all. Raises InvalidArgument, SetupIncomplete."""
    from waggle.infra.oci.build import builder_for, definition_names

    settings = load()
    images = image_service(settings)
    known = definition_names()
    for name in names:
        if name not in known:
            raise InvalidArgument(
                f"There is no definition {name[:40]!r}.", hint=f"Known: {', '.join(known)}."
            )
    wanted = [name for name in names or known if not (only_missing and images.digest_of(name))]
    for name in wanted:
        with working(f"Building the image {name}") as detail:
            anyio.run(builder_for(name, images.store, settings.debian_mirror or None).build, detail)
        _make_disk(images, name)


def _make_disk(images: ImageService, name: str) -> None:
    """Make the disk now, so that the first create does not wait for it."""

    async def make() -> None:
        async def on_progress(_share: float, _text: str) -> None:
            return

        await images.boot_image(name, on_progress)

    with working(f"Making the disk of {name}"):
        anyio.run(make)


def ls(*, as_json: bool) -> None:
    """Print the images as a table, or as a JSON list."""
    stored = image_service(load()).store.list()
    if as_json:
        sys.stdout.write(json.dumps([asdict(image) for image in stored], indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

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
    live = (record for record in records if record.state in LIVE_STATES)
    return frozenset(record.booted_from.get("image", "") for record in live)
