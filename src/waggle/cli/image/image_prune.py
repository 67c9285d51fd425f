# SPDX-License-Identifier: Apache-2.0
"""`waggle image prune`."""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import timedelta

from waggle.app.values import image_service
from waggle.cli.image.images import digests_in_use, iso
from waggle.cli.progress import say
from waggle.config import load
from waggle.config.parsers import parse_duration
from waggle.domain.errors import InvalidArgument
from waggle.domain.image import CachedImage, PrunePlan
from waggle.infra.shared.disk_room import storage_errors

_SIZE = re.compile(r"([0-9]{1,9})(MB|GB|MiB|GiB)")
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


def prune(*, max_size: str | None, older_than: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove what the bounds say, or tell what that would be."""
    max_bytes = None if max_size is None else parse_size(max_size)
    age = None if older_than is None else parse_age(older_than)
    oldest = None if age is None else time.time() - age
    settings = load()
    if max_size is None and older_than is None and settings.image_cache_max_mb:
        max_bytes = settings.image_cache_max_mb << 20
    images = image_service(settings)

    def in_use(digest: str) -> bool:
        return digest in digests_in_use(settings)

    with storage_errors("The image cache cannot be pruned"):
        plan = images.cache().prune(
            max_bytes=max_bytes,
            older_than=oldest,
            in_use=in_use,
            pinned=images.pinned(),
            dry_run=dry_run,
        )
    _tell(plan, dry_run=dry_run, as_json=as_json)


def _tell(plan: PrunePlan, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        document = {
            "dry_run": dry_run,
            "removed": [_described(image) for image in plan.remove],
            "freed_bytes": plan.freed_bytes,
            "kept_bytes": plan.kept_bytes,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
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
    """Read a size such as 20GB, in bytes. Pure. Raises InvalidArgument."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise InvalidArgument(f"{text[:40]!a} is not a size.", hint="Write 500MB, 20GB or 8GiB.")
    return int(match[1]) * _UNITS[match[2]]


def parse_age(text: str) -> float:
    """Read a duration as settings have it, in seconds. Pure. Raises InvalidArgument."""
    try:
        value = parse_duration(text)
    except ValueError:
        value = None
    if not isinstance(value, timedelta):
        raise InvalidArgument(f"{text[:40]!a} is not a duration.", hint="Write 90m or 168h.")
    return value.total_seconds()
