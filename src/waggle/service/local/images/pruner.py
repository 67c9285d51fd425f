# SPDX-License-Identifier: Apache-2.0
"""Keeps a server's image cache within its bounds: old disks, then images, then unpacked layers.

The reaper of images, so to say; started by the composition root. What goes is decided by
`domain.cache`. Images of the runtimes, of environments and of snapshots
stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from waggle.domain.errors import WaggleError
from waggle.service.local.images.images import ImageService

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
        """`in_use` gives the digests that stay.

        `max_bytes` bounds images, disks and layers together; `max_age` bounds unused disks.
        """
        self._images = images
        self._in_use = in_use
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._now = now
        self._sleep = sleep

    async def run(self) -> None:
        """Prune for ever; a failure is logged and the next hour tries again."""
        while True:
            try:
                removed = await self.prune()
                if removed:
                    log.info("images_pruned", digests=removed)
            except (OSError, WaggleError):
                log.exception("prune_failed")
            await self._sleep(INTERVAL_SECONDS)

    async def prune(self) -> list[str]:
        """Prune once; the digests of the images and disks that went. Raises OSError, TimedOut."""
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
