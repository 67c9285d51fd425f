# SPDX-License-Identifier: Apache-2.0
"""Makes root disks in a child process, and unpacks the layers of a pull while they are fetched.

Called by `ImageService` and `pulls`. Layers from others decide how long merging takes and how much
memory it needs; a child can be killed and limited, a thread cannot. The server gives the child an
image whose documents it has verified, and reads only lines of JSON back: progress, then the
outcome. The child does what `RootDisks.ensure` does, under the same lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Self, cast

import anyio

from waggle.domain.errors import ImageCorrupt, ImageUnavailable, TimedOut, WaggleError
from waggle.infra.archive import DEFAULT_LIMITS
from waggle.infra.oci.layers import UnpackedLayers, flatten
from waggle.infra.oci.layers.layers import Take, read_layer
from waggle.infra.oci.registry.blobs import Incoming
from waggle.infra.oci.store.image import Descriptor, ResolvedImage
from waggle.infra.rootfs.disk import RootDisks, ignore_progress
from waggle.infra.shared.confined import leash
from waggle.infra.shared.work import sweep
from waggle.tasks import end, finish

MEMORY_BYTES: Final = 2 << 30
"""Resident memory of the child: a tree of a million files takes half of it. Not a limit of address
space, under which Python's threads fail to start and are waited for without end."""
AT_ONCE: Final = 2
"""Children of one server: clients can name as many images at once as they have environments."""
_LOOK_SECONDS: Final = 0.25
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MAX_LINE: Final = 1 << 16
_FAILURES: Final = {error.__name__: error for error in (ImageCorrupt, TimedOut)}
Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class _Order:
    """The work of a child."""

    image: ResolvedImage
    disks: Path
    layers: Path


class DiskMaker:
    """Makes the root disks of one cache. Safe for any number of tasks and processes."""

    def __init__(
        self,
        disks: RootDisks[ResolvedImage],
        layers: UnpackedLayers,
        memory: int = MEMORY_BYTES,
        argv: tuple[str, ...] = (sys.executable, "-m", __name__),
        places: anyio.CapacityLimiter | None = None,
    ) -> None:
        """A child may hold `memory` bytes; `argv` runs `main` of this module.

        `places` limits how many run at once; None means AT_ONCE.
        """
        self._places = places or anyio.CapacityLimiter(AT_ONCE)
        self._disks = disks
        self._layers = layers
        self._argv = argv
        self._memory = memory

    async def make(self, image: ResolvedImage, report: Report = ignore_progress) -> Path:
        """Return the image's disk, made by a child if it does not exist. Idempotent.

        It waits for a place first. Cancelling kills the child and removes what it left. Raises what
        `RootDisks.ensure` raises, and ImageCorrupt if the child exceeded its memory or was killed.
        """
        async with self._places:
            return self._disks.find(image.digest) or await self._make(image, report)

    async def _make(self, image: ResolvedImage, report: Report) -> Path:
        child = await asyncio.create_subprocess_exec(
            *leash(self._argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            start_new_session=True,
        )
        watch = asyncio.ensure_future(self._grown(child))
        try:
            return await self._follow(child, image, report)
        except _Ended:
            raise _too_much(image) if watch.done() else _killed(image) from None
        finally:
            await finish(self._ended(child, watch))

    async def _grown(self, child: asyncio.subprocess.Process) -> None:
        """Wait until the child holds more memory than it may; kill it and return."""
        while _resident(child.pid) <= self._memory:  # noqa: ASYNC110 (no event says so)
            await asyncio.sleep(_LOOK_SECONDS)
        child.kill()

    async def _follow(
        self, child: asyncio.subprocess.Process, image: ResolvedImage, report: Report
    ) -> Path:
        stdin, stdout = child.stdin, child.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        with contextlib.suppress(ConnectionError):
            stdin.write(pickle.dumps(_Order(image, self._disks.directory, self._layers.directory)))
            await stdin.drain()
            stdin.close()
        async for line in stdout:
            message = cast("dict[str, object]", json.loads(line))
            if "share" in message:
                report(cast("float", message["share"]), cast("str", message["text"]))
            else:
                return self._outcome(message, image)
        raise _Ended

    def _outcome(self, last: dict[str, object], image: ResolvedImage) -> Path:
        """Return or raise the outcome in the child's last line."""
        match last:
            case {"errno": int(number), "message": str(message)}:
                raise OSError(number, message)
            case {"error": str(kind), "message": str(message), "hint": str(hint)}:
                raise _FAILURES.get(kind, ImageCorrupt)(message, hint=hint)
            case _:
                return self._disks.path(image.digest)

    async def _ended(self, child: asyncio.subprocess.Process, watch: asyncio.Future[None]) -> None:
        """Kill the child, wait for its end, and remove what it left."""
        await end(watch)
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        await asyncio.to_thread(sweep, self._disks.directory)


class _Ended(Exception):
    """The child ended without an outcome."""


def _killed(image: ResolvedImage) -> ImageCorrupt:
    return ImageCorrupt(
        f"Image {image.reference}: the process that made its disk was killed.",
        hint="See the server's log and the system's: perhaps there was too little memory.",
    )


def _too_much(image: ResolvedImage) -> ImageCorrupt:
    return ImageCorrupt(
        f"Image {image.reference} has so many files that its disk takes too much memory to make.",
        hint=image.remedy,
    )


def _resident(pid: int) -> int:
    """Return the resident bytes of a child; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def main() -> None:
    """Run as the child: read an order from stdin, write lines to stdout."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    order = cast("_Order", pickle.load(sys.stdin.buffer))  # noqa: S301 (the server's own words)
    _say(_done(order))


def _done(order: _Order) -> dict[str, object]:
    layers = UnpackedLayers(order.layers)
    disks = RootDisks[ResolvedImage](order.disks, partial(flatten, kept=layers))
    try:
        asyncio.run(disks.ensure(order.image, lambda at, text: _say({"share": at, "text": text})))
    except WaggleError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except OSError as error:
        return {"errno": error.errno or 0, "message": os.strerror(error.errno or 0)}
    return {}


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


_UNPACKING = 2
"""How many layers are unpacked at once."""
_LIMITS = replace(DEFAULT_LIMITS, window=8 << 20)
"""Layers that need a larger window are left to the child that makes the disk, because many pulls
run at once in the server's memory."""


class Unpacking:
    """Unpacks layers while they are fetched; a failure shows again when the disk is made.

    It has separate threads: they wait for bytes that the loop's threads bring.
    """

    def __init__(self, layers: UnpackedLayers) -> None:
        self._layers = layers
        self._pool = ThreadPoolExecutor(_UNPACKING, "waggle-unpack")
        self._work: list[Future[None]] = []
        self._readers = contextlib.ExitStack()
        self._given_up = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Wait for running work; after a failure it stops at its next step.

        All transfers have ended, so nothing here waits for bytes that never come.
        """
        self._given_up = kind is not None
        try:
            await finish(self._settled())
        finally:
            self._pool.shutdown(wait=False)
            self._readers.close()

    def start(self, layer: Descriptor, diff_id: str, incoming: Incoming) -> None:
        """Start to unpack a layer whose transfer starts."""
        reader = self._readers.enter_context(incoming.reader())
        self._work.append(self._pool.submit(self._unpack, layer, diff_id, reader))

    async def _settled(self) -> None:
        await asyncio.gather(*map(asyncio.wrap_future, self._work), return_exceptions=True)

    def _unpack(self, layer: Descriptor, diff_id: str, reader: BinaryIO) -> None:
        def unpack(data: Path, take: Take) -> int:
            return read_layer(
                *(reader, layer, diff_id, data, take, _LIMITS),
                advance=self._advance,
                verified=True,
            )

        with reader:
            self._advance(0)
            self._layers.add(diff_id, unpack)

    def _advance(self, _count: int) -> None:
        if self._given_up:
            raise ImageUnavailable("The pull was given up.", hint="Pull it again.")


if __name__ == "__main__":
    main()
