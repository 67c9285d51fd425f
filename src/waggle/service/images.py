# SPDX-License-Identifier: Apache-2.0
"""Images as environments need them: a reference in, a bootable disk out.

Joins the image store (`infra.oci`) and the disks made from it (`infra.rootfs`). Called by the
local host, the CLI and the checks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.domain.host import Progress
from waggle.domain.image import BootImage
from waggle.domain.runtime import RuntimeName
from waggle.infra.oci.flatten import flatten
from waggle.infra.oci.image import ResolvedImage
from waggle.infra.oci.store import ImageStore
from waggle.infra.rootfs.disk import RootDisks

DISK_SHARE = 0.4
"""The part of a create's progress that unpacking an image may take."""


class ImageService:
    """Resolves references and makes their disks; implements `domain.image.BootImages`."""

    def __init__(self, *, store: Path, disks: Path, runtimes: Mapping[RuntimeName, str]) -> None:
        self.store = ImageStore(store)
        self.disks: RootDisks[ResolvedImage] = RootDisks(disks, flatten)
        self._runtimes = runtimes

    async def boot_image(self, reference: str, progress: Progress) -> BootImage:
        """The image with its disk, made now if need be. Raises ImageMissing or ImageCorrupt."""
        image = await asyncio.to_thread(self.store.resolve, reference)
        disk = self.disks.find(image.digest)
        if disk is None:
            async with _from_threads(progress) as report:
                disk = await self.disks.ensure(image, report)
        return BootImage(reference, image.digest, disk, variables(image.config.env))

    async def missing(self) -> str | None:
        """Why nothing could be booted: not one of the runtimes' images is usable."""
        present = await asyncio.to_thread(self.present)
        if any(present.values()):
            return None
        return f"None of the images {', '.join(present)} is there. Run 'waggle image build'."

    def digest_of(self, reference: str) -> str | None:
        """The digest behind a reference, or None when it is missing or damaged."""
        try:
            return self.store.resolve(reference).digest
        except (ImageMissing, ImageCorrupt):
            return None

    def present(self) -> dict[str, bool]:
        """Whether each runtime's image is there and whole, as far as its manifest tells."""
        return {ref: self.digest_of(ref) is not None for ref in self._runtimes.values()}


def variables(entries: tuple[str, ...]) -> dict[str, str]:
    """An image configuration's Env; entries without a name are dropped, as runtimes do. Pure."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in pairs if name and "\0" not in name + value}


@contextlib.asynccontextmanager
async def _from_threads(progress: Progress) -> AsyncGenerator[Callable[[float, str], None]]:
    """A reporter that worker threads may call; only the newest report is passed on."""
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
            await progress(share * DISK_SHARE, text)

    task = asyncio.ensure_future(forward())
    try:
        yield lambda share, text: loop.call_soon_threadsafe(take, share, text) and None
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
