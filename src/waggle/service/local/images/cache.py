# SPDX-License-Identifier: Apache-2.0
"""The image cache as a whole: images, root disks and unpacked layers, pruned by one plan.

Called by the CLI and the `Pruner`. Joins `infra.oci` and `infra.rootfs`, which do not know each
other; `domain.image.plan_prune` decides what to remove. Blocks the thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from waggle.domain.errors import ImageMissing, InvalidArgument, TimedOut
from waggle.domain.image import CachedImage, PrunePlan, plan_prune
from waggle.infra.oci.layers import UnpackedLayers
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import ResolvedImage
from waggle.infra.rootfs.disk import RootDisks


@dataclass(frozen=True, slots=True)
class ImageCache:
    """A store, the disks made from its images, and the layers that are kept for the next ones.

    Digests that a caller passes as `pinned` are never removed.
    """

    store: ImageStore
    disks: RootDisks[ResolvedImage]
    layers: UnpackedLayers
    now: Callable[[], float] = time.time

    def survey(self, pinned: Collection[str] = ()) -> list[CachedImage]:
        """Return what is there, one entry per manifest. Raises ImageCorrupt for a bad index."""
        found: dict[str, CachedImage] = {}
        for held in self.store.holdings():
            known = found.get(held.digest) or CachedImage(held.digest)
            found[held.digest] = replace(
                known,
                names=(*known.names, held.name),
                blobs={**known.blobs, **held.blobs},
                used=max(known.used, held.used),
            )
        for disk in self.disks.made():
            known = found.get(disk.digest) or CachedImage(disk.digest)
            used = max(known.used, disk.used)
            found[disk.digest] = replace(known, disk_bytes=disk.size, used=used)
        return [replace(image, pinned=image.digest in pinned) for image in found.values()]

    def prune(
        self,
        *,
        max_bytes: int | None,
        older_than: float | None,
        in_use: Callable[[str], bool],
        pinned: Collection[str] = (),
        dry_run: bool = False,
    ) -> PrunePlan:
        """Remove what `plan_prune` chooses, and leftovers that no image reaches; return the plan.

        Layers get what images and disks leave of `max_bytes`. `older_than` is in seconds since the
        epoch. `in_use` is called again before an image is removed, and an image that was used since
        the survey stays. `dry_run` changes nothing and leaves layers out. Idempotent; safe beside
        other processes. Raises ImageCorrupt for a damaged index, TimedOut if the store is locked
        for too long.
        """
        began = self.now()
        surveyed = [
            replace(image, pinned=image.pinned or in_use(image.digest))
            for image in self.survey(pinned)
        ]
        plan = plan_prune(surveyed, max_bytes=max_bytes, older_than=older_than)
        if dry_run:
            return plan
        gone = {image.digest for image in plan.remove if self._remove(image, in_use, began)}
        self.store.collect()
        self.disks.prune(0.0, in_use)  # disks of older formats, and leftovers of killed processes
        if len(gone) < len(plan.remove):
            done = [replace(image, pinned=image.digest not in gone) for image in surveyed]
            plan = plan_prune(done, older_than=float("inf"))
        if max_bytes is None:
            return plan
        freed = self.layers.prune(max(0, max_bytes - plan.kept_bytes), self.now)
        return replace(plan, freed_bytes=plan.freed_bytes + freed)

    def _remove(self, image: CachedImage, in_use: Callable[[str], bool], began: float) -> bool:
        if in_use(image.digest) or self._last_used(image.digest) >= began:
            return False
        try:
            for name in image.names:
                with contextlib.suppress(ImageMissing):  # another process was faster
                    self.store.remove(name, in_use)
            self.disks.remove(image.digest)
        except (InvalidArgument, TimedOut):
            return False  # it came into use, or its disk is being made
        return True

    def _last_used(self, digest: str) -> float:
        disks = (disk.used for disk in self.disks.made() if disk.digest == digest)
        return max(self.store.last_used(digest), *disks, 0.0)
