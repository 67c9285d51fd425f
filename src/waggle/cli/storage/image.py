# SPDX-License-Identifier: Apache-2.0
"""`waggle image build|ls|inspect|rm|prune`, and functions that other commands share."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import anyio

from waggle.app.values import image_service
from waggle.cli.durations import parse_option
from waggle.cli.progress import filling, print_json, print_table, say, working
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.domain.errors import InvalidArgument, SetupIncomplete
from waggle.domain.image import CachedImage, PrunePlan
from waggle.infra.oci.build import build_image, is_outdated
from waggle.infra.oci.build.definition import ImageDefinition, load_definition
from waggle.infra.shared.disk_room import storage_errors
from waggle.infra.store.environments import SqliteStore
from waggle.service.local.images.images import ImageService
from waggle.shipped import IMAGES

BY_DEFAULT = ("python", "node", "shell", "data")
"""The images of the runtimes."""
BASE = "base"
"""The image below all others. No runtime uses it directly."""
_COLUMNS = ("name", "digest", "size", "disk", "last used (UTC)")
_TABLE_WIDTH = 120
_NOTHING = (
    "No images. Build waggle's own with 'waggle image build';"
    " 'waggle image pull' and 'waggle image load' bring others."
)


def build(names: Sequence[str], *, only_missing: bool) -> None:
    """Build the named images, or BY_DEFAULT, and their disks.

    `only_missing` skips images that were built from this version's definition. Raises
    InvalidArgument, SetupIncomplete.
    """
    settings = load()
    images = image_service(settings)
    known = sorted(path.parent.name for path in IMAGES.glob("*/image.toml"))
    for name in names:
        if name not in known:
            raise InvalidArgument(
                f"There is no definition {name[:40]!r}.", hint=f"Known are: {', '.join(known)}."
            )
    for name in names or BY_DEFAULT:
        definition = load_definition(IMAGES, name)
        if not only_missing or _is_wanted(images, definition, settings.debian_mirror):
            with working(f"Building the image {name}") as report:
                build_image(
                    definition, images.store, settings.debian_mirror, lambda _, text: report(text)
                )
        if name != BASE:
            make_disk(images, name)


def _is_wanted(images: ImageService, definition: ImageDefinition, mirror: str) -> bool:
    """Whether the image is missing, or was built from another definition or archive."""
    if images.digest_of(definition.name) is None:
        return True
    return is_outdated(definition, images.store.resolve(definition.name), mirror)


def outdated(settings: Settings) -> list[str]:
    """Return the runtimes' images that a build now would make from another definition or archive.

    Returns none if no Debian archive is known, since then nothing can be built.
    """
    images = image_service(settings)
    return [
        name
        for name, there in images.present().items()
        if there and name in BY_DEFAULT and _is_old(images, name, settings.debian_mirror)
    ]


def _is_old(images: ImageService, name: str, mirror: str) -> bool:
    try:
        return is_outdated(load_definition(IMAGES, name), images.store.resolve(name), mirror)
    except SetupIncomplete:
        return False


def make_disk(images: ImageService, name: str) -> None:
    """Make the disk now, so that the first create does not wait for it. Uses no registry."""
    image = images.store.resolve(name)
    if images.disks.find(image.digest) is None:
        with filling(f"Making the disk of {name}") as show:
            anyio.run(images.make_disk, image, show)


def ls(*, as_json: bool) -> None:
    """Print the images as a table, or as a JSON list."""
    images = image_service(load())
    disks = {disk.digest: disk for disk in images.disks.made()}
    rows: list[dict[str, Any]] = []
    for image in images.store.list():
        disk = disks.get(image.digest)
        used = iso(max(image.used, disk.used if disk else 0.0))
        rows.append({**asdict(image), "used": used, "disk_bytes": disk.size if disk else 0})
    if as_json:
        print_json(rows)
        return
    cells: list[tuple[str, ...]] = []
    for row in rows:
        size = f"{row['size'] / 1e6:.1f} MB" if not row["problem"] else row["problem"]
        disk_size = f"{row['disk_bytes'] / 1e6:.1f} MB" if row["disk_bytes"] else "not made"
        cells.append((row["name"], row["digest"][:19], size, disk_size, row["used"][:16]))
    print_table(_COLUMNS, cells, _NOTHING, _TABLE_WIDTH)


def iso(used: float) -> str:
    """Return a time for printing: UTC, whole seconds; empty when unknown. Pure."""
    return f"{datetime.fromtimestamp(used, UTC):%Y-%m-%dT%H:%M:%SZ}" if used else ""


def inspect(name: str) -> None:
    """Print one image as JSON."""
    image = image_service(load()).store.resolve(name)
    sys.stdout.write(json.dumps(asdict(image), indent=2, default=str) + "\n")


def rm(names: Sequence[str]) -> None:
    """Remove images and their disks. Refuses images that a running environment uses."""
    if not names:
        raise InvalidArgument("No image was named.", hint="See 'waggle image ls'.")
    settings = load()
    images = image_service(settings)
    used = digests_in_use(settings)
    for name in names:
        with storage_errors(f"{name[:200]!a} cannot be removed"):
            digest = images.digest_of(name)
            freed = images.store.remove(name, used.__contains__)
            held = {holding.digest for holding in images.store.holdings()}
            if digest is not None and digest not in held:
                images.disks.remove(digest)
        say(f"Removed {name}; {freed / 1e6:.1f} MB are free again.")


def digests_in_use(settings: Settings) -> frozenset[str]:
    """Return the digests that live environments were booted from, by the server's records."""
    return anyio.run(_in_use, settings)


async def _in_use(settings: Settings) -> frozenset[str]:
    state = Places.of(settings).state
    if not state.exists():
        return frozenset()
    store = await SqliteStore.open(state)
    try:
        records = await store.unfinished()
    finally:
        await store.aclose()
    return frozenset(record.booted_from.get("image", "") for record in records)


_SIZE = re.compile(r"([0-9]{1,9})(MB|GB|MiB|GiB)")
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


def prune(*, max_size: str | None, older_than: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove images and disks by the bounds, or with `dry_run` print what would be removed."""
    max_bytes = None if max_size is None else parse_size(max_size)
    age = None if older_than is None else parse_option("--older-than", older_than)
    oldest = None if age is None else time.time() - age.total_seconds()
    settings = load()
    if max_size is None and older_than is None and settings.image_cache_max_mb:
        max_bytes = settings.image_cache_max_mb << 20
    images = image_service(settings)
    with storage_errors("The image cache cannot be pruned"):
        plan = images.cache().prune(
            max_bytes=max_bytes,
            older_than=oldest,
            in_use=lambda digest: digest in digests_in_use(settings),
            pinned=images.pinned(),
            dry_run=dry_run,
        )
    _report(plan, dry_run=dry_run, as_json=as_json)


def _report(plan: PrunePlan, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        removed = [_described(image) for image in plan.remove]
        freed, kept = plan.freed_bytes, plan.kept_bytes
        print_json(
            {"dry_run": dry_run, "removed": removed, "freed_bytes": freed, "kept_bytes": kept}
        )
        return
    would, are = ("Would remove", "would be") if dry_run else ("Removed", "are")
    for image in plan.remove:
        what = ", ".join(image.names) or f"the disk of {image.digest[:19]}"
        say(f"{would} {what}; last used {iso(image.used)}.")
    freed, kept = plan.freed_bytes / 1e6, plan.kept_bytes / 1e6
    say(f"{freed:.1f} MB {are} free again; images and disks take {kept:.1f} MB.")


def _described(image: CachedImage) -> dict[str, object]:
    names, disk, used = list(image.names), image.disk_bytes, iso(image.used)
    return {"digest": image.digest, "names": names, "disk_bytes": disk, "used": used}


def parse_size(text: str) -> int:
    """Parse a size such as 20GB, and return it in bytes. Pure. Raises InvalidArgument."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise InvalidArgument(f"{text[:40]!a} is not a size.", hint="Write 500MB, 20GB or 8GiB.")
    return int(match[1]) * _UNITS[match[2]]
