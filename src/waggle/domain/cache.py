# SPDX-License-Identifier: Apache-2.0
"""What of the image cache may go: a plan from plain values. Pure.

Called by `service.image_cache`, which looks at the store and the disks and carries the plan out.
An image is everything of one manifest: its names, its blobs (which others may share) and its root
disk. It goes as a whole or stays as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CachedImage:
    """One image. Sizes are in bytes, `used` is in seconds since the epoch."""

    digest: str
    names: tuple[str, ...] = ()
    """Empty for a disk whose image is not, or no more, in the store."""
    blobs: Mapping[str, int] = field(default_factory=dict[str, int])
    disk_bytes: int = 0
    used: float = 0.0
    pinned: bool = False
    """A running environment uses it, or a setting names it."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What to remove, least recently used first, and what that does."""

    remove: tuple[CachedImage, ...]
    freed_bytes: int
    kept_bytes: int


def plan_prune(
    images: Iterable[CachedImage],
    *,
    max_bytes: int | None = None,
    older_than: float | None = None,
) -> PrunePlan:
    """Choose what goes: all that was last used before `older_than`, then more to fit `max_bytes`.

    The least recently used goes first; what is pinned never goes, even if the rest stays too large.
    None means no such bound.
    """
    everything = list(images)
    total = Counter[str]()
    sizes: dict[str, int] = {}
    for image in everything:
        sizes |= image.blobs
        total.update(image.blobs.keys())
    before = left = sum(sizes.values()) + sum(image.disk_bytes for image in everything)
    removed: list[CachedImage] = []
    loose = (image for image in everything if not image.pinned)
    for image in sorted(loose, key=lambda image: (image.used, image.digest)):
        is_old = older_than is not None and image.used < older_than
        is_over = max_bytes is not None and left > max_bytes
        if not (is_old or is_over):
            break
        removed.append(image)
        total.subtract(image.blobs.keys())
        left -= image.disk_bytes + sum(sizes[blob] for blob in image.blobs if not total[blob])
    return PrunePlan(tuple(removed), before - left, left)
