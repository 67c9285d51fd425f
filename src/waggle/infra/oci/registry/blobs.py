# SPDX-License-Identifier: Apache-2.0
"""Fetches one blob into a file, which a reader in another thread may follow meanwhile.

`Puller` fetches every layer so. The blob is hashed while it streams, its size is bounded, a broken
transfer resumes, and one that crawls fails. The caller places or removes the file; only after `run`
has returned do its size and digest match the descriptor. The file is the buffer between transfer
and reader, so neither waits for the other's pace and memory stays small. A reader sees the end only
after the digest was verified; any other outcome is an error.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from threading import Condition

import httpx2

from waggle.domain.errors import ImageCorrupt, ImageUnavailable
from waggle.infra.archive import new_hash
from waggle.infra.oci.registry.client import Client
from waggle.infra.oci.registry.endpoints import Endpoint, Transient, retrying
from waggle.infra.oci.registry.exchange import BROKEN, Request
from waggle.infra.oci.store.image import Descriptor
from waggle.tasks import finish


class _State(Enum):
    COMING = "more may come"
    WHOLE = "all is there and verified"
    ENDED = "no more comes"


class Incoming:
    """A new file with the bytes received so far and their running digest.

    The methods are for the writer, one call at a time; only readers are safe in other threads.
    """

    def __init__(self, path: Path, algorithm: str = "sha256") -> None:
        """Create the file, which the caller places or removes. Raises OSError."""
        self.size = 0
        self._algorithm = algorithm
        self._hash = new_hash(algorithm)
        self._changed = Condition()
        self._state = _State.COMING
        self._round = 0
        self._file = path.open("x+b", buffering=0)

    def write(self, parts: list[bytes]) -> None:
        """Append bytes. Raises OSError."""
        for part in parts:
            self._hash.update(part)
            view = memoryview(part)
            while view:
                view = view[self._file.write(view) :]
            self._change(self.size + len(part))

    def restart(self) -> None:
        """Discard all bytes; readers that have seen some of them fail."""
        if self.size:
            self._hash = new_hash(self._algorithm)
            self._round += 1
            self._change(0)
            self._file.seek(0)
            self._file.truncate()

    def verify(self, digest: str) -> bool:
        """Return whether the bytes have this digest; if so, readers get the end of the file."""
        if f"{self._algorithm}:{self._hash.hexdigest()}" != digest:
            return False
        self._change(self.size, _State.WHOLE)
        return True

    def sync(self) -> None:
        """Flush the file to disk. Raises OSError."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the transfer; readers of an incomplete one fail. Idempotent."""
        if self._state is _State.COMING:
            self._change(self.size, _State.ENDED)
        self._file.close()

    def reader(self) -> io.BufferedReader:
        """Return a reader with its own descriptor, at the start; the caller closes it.

        Its reads block until bytes arrive, and raise ImageUnavailable when the transfer was given
        up or restarted. They return at the latest with `close`.
        """
        return io.BufferedReader(_Reader(self, os.dup(self._file.fileno())))

    def read_at(self, descriptor: int, at: int, buffer: memoryview, seen: int) -> tuple[int, int]:
        """Wait for bytes at `at`; return how many were read and the round that they belong to."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.size > at or self._round != seen or self._state is not _State.COMING
            )
            if at and self._round != seen:
                raise ImageUnavailable("The transfer of this layer began again.")
            if self._state is _State.ENDED:
                raise ImageUnavailable("The transfer of this layer was given up.")
            count, seen = min(len(buffer), self.size - at), self._round
        got = os.preadv(descriptor, [memoryview(buffer)[:count]], at) if count else 0
        with self._changed:
            if self._round != seen:
                raise ImageUnavailable("The transfer of this layer began again.")
        return got, seen

    def _change(self, size: int, state: _State = _State.COMING) -> None:
        with self._changed:
            self.size, self._state = size, state
            self._changed.notify_all()


class _Reader(io.RawIOBase):
    def __init__(self, incoming: Incoming, descriptor: int) -> None:
        super().__init__()
        self._incoming = incoming
        self._descriptor = descriptor
        self._at = self._round = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed's Buffer is a memoryview here)
        count, self._round = self._incoming.read_at(self._descriptor, self._at, buffer, self._round)
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


_LEAST = 16 * 1024
"""Bytes that must arrive within one window."""


class Pace:
    """Detects a transfer that crawls, although no single read takes long enough to time out."""

    def __init__(self, window: float, clock: Callable[[], float]) -> None:
        """`window` is in seconds of `clock`."""
        self._window, self._clock = window, clock
        self._since, self._bytes = clock(), 0

    def add(self, count: int, registry: str) -> None:
        """Count received bytes. Raises Transient when too few arrived within the window."""
        self._bytes += count
        now = self._clock()
        if self._bytes >= _LEAST:
            self._since, self._bytes = now, 0
        elif now - self._since > self._window:
            raise Transient(f"{registry}: it hardly sends anything.")


_CHUNK = 2 << 20
_PROGRESS = 4 << 20
"""Bytes after which the count of failures of a transfer starts again."""
_ATTEMPTS_AT_CONTENT = 2
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:[0-9]{1,19}|\*)")


class _Wrong(Exception):
    """All bytes arrived, and they are not the blob."""


class Fetch:
    """The transfer of one blob from one endpoint."""

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        blob: Descriptor,
        advance: Callable[[int], None],
    ) -> None:
        """`advance` gets changes in the number of bytes received; they may be negative."""
        self._client = client
        self._endpoint = endpoint
        self._blob = blob
        self._advance = advance
        self._resumable = True
        self._mark = 0

    async def run(self, sink: Incoming) -> None:
        """Fetch into `sink`, which is complete and on disk afterwards.

        Bytes from another endpoint are discarded first. Raises ImageCorrupt for wrong bytes,
        ImageMissing, ImageUnavailable, OSError. Cancellable; no thread still writes when this
        returns or raises.
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
        request = Request("GET", self._endpoint.url(f"blobs/{blob.digest}"), headers)
        what = f"layer {blob.digest}"
        expected = {200, 206, 416} if sink.size else {200}
        async with self._client.open(self._endpoint, request, expected, what) as response:
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
            await self._write(sink, pending)  # to resume from there
            raise
        await self._write(sink, pending)

    async def _write(self, sink: Incoming, parts: list[bytes]) -> None:
        if parts:
            before = sink.size
            await finish(asyncio.to_thread(sink.write, parts))
            self._advance(sink.size - before)

    def _check_length(self, response: httpx2.Response, sink: Incoming) -> None:
        """Raise ImageCorrupt at once for too great a length; shorter transfers may be resumed."""
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and sink.size + int(length) > self._blob.size:
            raise ImageCorrupt(
                f"{self._endpoint.registry} offers {length[:20]} bytes for {self._blob.digest},"
                f" which has {self._blob.size}."
            )


def continues(response: httpx2.Response, size: int, total: int) -> bool:
    """Return whether a response continues where `size` bytes of `total` end. Pure."""
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code != 206 or match is None:
        return False
    return int(match[1]) == size and int(match[2]) < total
