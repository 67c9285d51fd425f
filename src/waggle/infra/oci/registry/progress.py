# SPDX-License-Identifier: Apache-2.0
"""Counts what is transferred, and runs transfers side by side. Called by `pull` and `push`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from waggle.infra.oci.registry.options import Report, Transfer
from waggle.infra.oci.store.image import Descriptor
from waggle.tasks import end


class Meter:
    """How much of some blobs is done; reports each change."""

    def __init__(self, blobs: Sequence[Descriptor], report: Report, text: str) -> None:
        """`blobs` are distinct; `text` says what is going on."""
        self._report = report
        self._text = text
        self._total = sum(blob.size for blob in blobs)
        self._count = len(blobs)
        self._bytes: dict[str, int] = {}
        self._complete: set[str] = set()
        self._tell()

    def advance_of(self, blob: Descriptor) -> Callable[[int], None]:
        """Return what adds bytes (fewer than 0 when some are lost) to the blob's count."""

        def advance(count: int) -> None:
            self._bytes[blob.digest] = self._bytes.get(blob.digest, 0) + count
            self._tell()

        return advance

    def reset(self, blob: Descriptor) -> None:
        """Forget what was transferred of a blob."""
        self._bytes.pop(blob.digest, None)

    def complete(self, blob: Descriptor) -> None:
        """Count a blob as done in full. Idempotent."""
        if blob.digest not in self._complete:
            self._complete.add(blob.digest)
            self._bytes[blob.digest] = blob.size
            self._tell()

    def _tell(self) -> None:
        done = sum(self._bytes.values())
        self._report(Transfer(done, self._total, len(self._complete), self._count, self._text))


async def at_once(jobs: Sequence[Callable[[], Awaitable[None]]], parallel: int) -> None:
    """Run all jobs, at most `parallel` at a time; the first failure ends the others and is raised.

    Returns or raises only when none runs any more, also when cancelled.
    """
    gate = asyncio.Semaphore(max(1, parallel))

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        async with gate:
            await job()

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        await end(*tasks)
