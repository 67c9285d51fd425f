# SPDX-License-Identifier: Apache-2.0
"""Fetches one blob into a file: hashed while it streams, bounded, resumed after a break.

Called by `bring` for each layer. The file is the caller's to place or to remove; nothing is
promised of it before `run` returns, and then its size and digest are the descriptor's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import httpx2

from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.registry.client import Client
from waggle.infra.oci.registry.endpoints import Endpoint
from waggle.infra.oci.registry.exchange import BROKEN, Ask
from waggle.infra.oci.registry.incoming import Incoming
from waggle.infra.oci.registry.pace import Pace
from waggle.infra.oci.registry.retry import Transient, retrying
from waggle.infra.oci.store.image import Descriptor
from waggle.tasks import finish

_CHUNK = 2 << 20
_PROGRESS = 4 << 20
"""Bytes after which a broken transfer counts as its first failure again."""
_ATTEMPTS_AT_CONTENT = 2
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:[0-9]{1,19}|\*)")


class _Wrong(Exception):
    """All bytes came, and they are not the blob."""


class Fetch:
    """The transfer of one blob from one endpoint."""

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        blob: Descriptor,
        advance: Callable[[int], None],
    ) -> None:
        """`advance` is told changes in the number of bytes that are there; they may be negative."""
        self._client = client
        self._endpoint = endpoint
        self._blob = blob
        self._advance = advance
        self._resumable = True
        self._mark = 0

    async def run(self, sink: Incoming) -> None:
        """Fetch into `sink`, which is complete and on the disk afterwards.

        What another endpoint left there is dropped. Raises ImageCorrupt for wrong bytes,
        ImageMissing, ImageUnavailable, OSError. Cancellable; no thread writes any more when this
        is left.
        """
        sink.restart()
        for attempt in range(1, _ATTEMPTS_AT_CONTENT + 1):
            try:
                await retrying(
                    lambda: self._attempt(sink),
                    self._client.options,
                    self._client.ambient,
                    lambda: self._progressed(sink),
                )
                return
            except _Wrong:
                self._restart(sink)
                if attempt == _ATTEMPTS_AT_CONTENT:
                    raise ImageCorrupt(
                        f"{self._endpoint.registry} sends wrong bytes for {self._blob.digest}."
                    ) from None

    def _progressed(self, sink: Incoming) -> bool:
        gained = sink.size - self._mark
        self._mark = sink.size
        return gained >= _PROGRESS

    def _restart(self, sink: Incoming) -> None:
        self._advance(-sink.size)
        sink.restart()
        self._mark = 0

    async def _attempt(self, sink: Incoming) -> None:
        blob = self._blob
        if sink.size and not (self._resumable and sink.size < blob.size):
            self._restart(sink)
        headers = {"range": f"bytes={sink.size}-"} if sink.size else {}
        ask = Ask("GET", self._endpoint.url(f"blobs/{blob.digest}"), headers)
        what = f"layer {blob.digest}"
        expected = {200, 206, 416} if sink.size else {200}
        async with self._client.open(self._endpoint, ask, expected, what) as response:
            if sink.size and not continues(response, sink.size, blob.size):
                self._restart(sink)
                self._resumable = response.status_code == 200
                if not self._resumable:
                    raise Transient(f"{self._endpoint.registry} does not continue {what}.")
            await self._receive(response, sink)
        if sink.size != blob.size:
            raise Transient(f"{self._endpoint.registry} ends {what} too early.")
        if not sink.verify(blob.digest):
            raise _Wrong
        await finish(asyncio.to_thread(sink.sync))

    async def _receive(self, response: httpx2.Response, sink: Incoming) -> None:
        pace = Pace(self._client.options.stall_timeout, self._client.ambient.monotonic)
        self._check_length(response, sink)
        pending: list[bytes] = []
        waiting = 0
        try:
            async for part in response.aiter_raw():
                pending.append(part)
                waiting += len(part)
                if sink.size + waiting > self._blob.size:
                    raise ImageCorrupt(
                        f"{self._endpoint.registry} sends more than the {self._blob.size} bytes"
                        f" of {self._blob.digest}."
                    )
                if waiting >= _CHUNK:
                    await self._write(sink, pending)
                    pending, waiting = [], 0
                pace.add(len(part), self._endpoint.registry)
        except (*BROKEN, Transient):
            await self._write(sink, pending)  # to go on from there
            raise
        await self._write(sink, pending)

    async def _write(self, sink: Incoming, parts: list[bytes]) -> None:
        if parts:
            before = sink.size
            await finish(asyncio.to_thread(sink.write, parts))
            self._advance(sink.size - before)

    def _check_length(self, response: httpx2.Response, sink: Incoming) -> None:
        """Refuse at once what can only end wrongly; shorter ones may be continued."""
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and sink.size + int(length) > self._blob.size:
            raise ImageCorrupt(
                f"{self._endpoint.registry} offers {length[:20]} bytes for {self._blob.digest},"
                f" which has {self._blob.size}."
            )


def continues(response: httpx2.Response, size: int, total: int) -> bool:
    """Tell whether a response goes on where `size` bytes of `total` end. Pure."""
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code != 206 or match is None:
        return False
    return int(match[1]) == size and int(match[2]) < total
