# SPDX-License-Identifier: Apache-2.0
"""Images as environments need them (a reference in, a bootable disk out), and the image pruner.

Joins the image store (`infra.oci`) and the root disks made from it (`infra.rootfs`). Called by
`LocalHost`, the CLI and the checks. `Pruner`, started by the composition root, keeps the cache
within its bounds: old disks first, then images, then unpacked layers. Images of the runtimes, of
environments and of snapshots stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from waggle.domain.errors import ImageCorrupt, ImageMissing, WaggleError
from waggle.domain.host import Progress
from waggle.domain.image import BootImage, image_directory, image_shell, image_user, image_variables
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.oci.layers import UnpackedLayers, flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import ResolvedImage
from waggle.infra.oci.store.select import is_local
from waggle.infra.rootfs.disk import RootDisks, ignore_progress
from waggle.infra.shared.disk_room import DiskRoom
from waggle.service.local.images.cache import ImageCache
from waggle.service.local.images.disk_maker import DiskMaker
from waggle.service.local.images.pulls import PullPlaces, PullPolicy, Pulls, describe
from waggle.service.sharing import Sharing

LINGER_SECONDS = 900.0
"""How long a pull or unpacking without a waiting caller continues."""
PULL_SHARE, DISK_SHARE = 0.25, 0.4
"""The progress of a create, of 1, when its image is fetched and when its disk is made."""


class ImageService:
    """Resolves references and makes their disks; implements `domain.image.BootImages`."""

    def __init__(
        self,
        *,
        store: Path,
        disks: Path,
        layers: Path,
        runtimes: Mapping[RuntimeName, str],
        pulling: PullPolicy | None = None,
        places: PullPlaces | None = None,
        linger: float = LINGER_SECONDS,
        room: DiskRoom | None = None,
    ) -> None:
        """`linger` is how many seconds work continues after all its callers have given up.

        `places` limits pulls; None means no limit. `room` is that of all three directories; None
        keeps no reserve.
        """
        self._room = room or DiskRoom("the image cache", store, 0)
        self.store = ImageStore(store)
        self.layers = UnpackedLayers(layers)
        self.disks: RootDisks[ResolvedImage] = RootDisks(disks, partial(flatten, kept=self.layers))
        self._maker = DiskMaker(self.disks, self.layers)
        self.pulls = Pulls(self.store, self.layers, pulling or PullPolicy(), room=self._room)
        self._runtimes = runtimes
        self._places = places or PullPlaces(sys.maxsize)
        self._sharing: Sharing[BootImage] = Sharing(linger, self._places.look)

    async def boot_image(self, reference: str, progress: Progress, owner: str = "") -> BootImage:
        """Return the image with its disk, pulled and made now if need be, on the owner's account.

        Calls for the same image share the work. Cancelling one does not affect the others, and work
        without a waiting caller continues for `linger` seconds. Raises ImageMissing, ImageCorrupt,
        DiskFull, and what `Pulls.bring` raises.
        """
        name = reference
        if not is_local(reference):
            name = await asyncio.to_thread(self.pulls.name_of, reference)
        return await self._sharing.get(name, partial(self._boot_image, name), progress, owner)

    async def aclose(self) -> None:
        """End all work. Idempotent."""
        await self._sharing.aclose()

    async def _boot_image(self, reference: str, progress: Progress) -> BootImage:
        with self._room.errors():
            return await self._brought(reference, progress)

    async def _brought(self, reference: str, progress: Progress) -> BootImage:
        if not is_local(reference):
            async with _from_threads(progress, 0.0, PULL_SHARE) as report:
                place = self._places.place(
                    partial(self._sharing.owners, reference),
                    lambda ahead: report(0.0, f"Waiting to pull {reference}, after {ahead} others"),
                )
                reference = await self.pulls.bring(
                    reference, lambda transfer: report(*describe(transfer)), place
                )
        image = await asyncio.to_thread(self._used, reference)
        disk = self.disks.find(image.digest)
        if disk is None:
            self._room.require()
            async with _from_threads(progress, PULL_SHARE, DISK_SHARE) as report:
                disk = await self.make_disk(image, report)
        config = image.config
        return BootImage(
            reference,
            image.digest,
            disk,
            variables=image_variables(config.env),
            user=image_user(config.user),
            directory=image_directory(config.working_dir),
            shell=image_shell(config.entrypoint, config.cmd),
        )

    def cache(self, now: Callable[[], float] = time.time) -> ImageCache:
        """Return the cache of everything that is kept, to survey and prune."""
        return ImageCache(self.store, self.disks, self.layers, now)

    async def make_disk(
        self, image: ResolvedImage, report: Callable[[float, str], None] = ignore_progress
    ) -> Path:
        """Make the disk; drop layers that are found damaged, so that they can be pulled again.

        Raises what `DiskMaker.make` raises.
        """
        try:
            return await self._maker.make(image, report)
        except ImageCorrupt:
            await asyncio.to_thread(self.store.drop_damaged, image)
            raise

    def _used(self, reference: str) -> ResolvedImage:
        image = self.store.resolve(reference)
        self.store.note_use(image)
        return image

    async def missing(self) -> str | None:
        """Return why nothing can boot, if no runtime's image is here or can be pulled; or None."""
        present = await asyncio.to_thread(self.present)
        if any(present.values()):
            return None
        if await asyncio.to_thread(any, map(self.pulls.may_bring, present)):
            return None
        return f"None of the images {', '.join(present)} is there. Run 'waggle image build'."

    def digest_of(self, reference: str) -> str | None:
        """Return the digest of a reference, or None if it is missing or damaged."""
        try:
            return self.store.resolve(reference).digest
        except (ImageMissing, ImageCorrupt):
            return None

    def present(self) -> dict[str, bool]:
        """Return, by reference, whether every runtime's image is here; checks its manifest only."""
        return {ref: self.digest_of(ref) is not None for ref in self._runtimes.values()}

    def pinned(self) -> frozenset[str]:
        """Return the digests of the runtimes' images, which pruning keeps."""
        found = map(self.digest_of, self._runtimes.values())
        return frozenset(digest for digest in found if digest)


@contextlib.asynccontextmanager
async def _from_threads(
    progress: Progress, begin: float, end: float
) -> AsyncGenerator[Callable[[float, str], None]]:
    """Yield a reporter of shares from `begin` to `end` that worker threads may call.

    Only the newest report is passed on.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    newest: list[tuple[float, str]] = []

    def take(share: float, text: str) -> None:
        newest[:] = [(share, text)]
        changed.set()

    async def forward() -> None:
        while True:
            await changed.wait()
            changed.clear()
            share, text = newest[0]
            await progress(begin + share * (end - begin), text)

    task = asyncio.ensure_future(forward())
    try:
        yield lambda share, text: loop.call_soon_threadsafe(take, share, text) and None
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


log = structlog.get_logger(__name__)
INTERVAL_SECONDS = 3600.0


class Pruner:
    """Prunes at once and every hour until cancelled. `now` gives seconds since the epoch."""

    def __init__(
        self,
        images: ImageService,
        in_use: Callable[[], frozenset[str]],
        *,
        max_bytes: int | None,
        max_age: timedelta,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """`in_use` returns the digests that stay.

        `max_bytes` bounds images, disks and layers together; `max_age` bounds unused disks.
        """
        self._images = images
        self._in_use = in_use
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._now = now
        self._sleep = sleep

    async def run(self) -> None:
        """Prune until cancelled; a failure is logged, and the next hour tries again."""
        while True:
            try:
                removed = await self.prune()
                if removed:
                    log.info("images_pruned", digests=removed)
            except (OSError, WaggleError):
                log.exception("prune_failed")
            await self._sleep(INTERVAL_SECONDS)

    async def prune(self) -> list[str]:
        """Prune once; return the digests of removed images and disks. Raises OSError, TimedOut."""
        return await asyncio.to_thread(self._prune, self._in_use())

    def _prune(self, used: frozenset[str]) -> list[str]:
        images, in_use = self._images, used.__contains__
        oldest = self._now() - self._max_age.total_seconds()
        gone = images.disks.prune(oldest, in_use)
        if self._max_bytes is None:
            return gone
        plan = images.cache(self._now).prune(
            max_bytes=self._max_bytes, older_than=None, in_use=in_use, pinned=images.pinned()
        )
        return [*gone, *(image.digest for image in plan.remove)]
