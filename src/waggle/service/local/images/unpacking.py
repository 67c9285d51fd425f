# SPDX-License-Identifier: Apache-2.0
"""Unpacks the layers of one pull while they are still fetched. Called by `pulls`."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self

from waggle.domain.errors import ImageUnavailable
from waggle.infra.archive.limits import DEFAULT_LIMITS
from waggle.infra.oci.layers.layers import Take, read_layer
from waggle.infra.oci.layers.unpacked import UnpackedLayers
from waggle.infra.oci.registry.blobs import Incoming
from waggle.infra.oci.store.image import Descriptor
from waggle.tasks import finish

_UNPACKING = 2
"""Layers that are unpacked at once."""
_LIMITS = replace(DEFAULT_LIMITS, window=8 << 20)
"""What needs a larger window is left to the process that makes the disk: many pulls run at once,
all in the server's memory."""


class Unpacking:
    """Unpacks layers while they are fetched; what fails is found again when the disk is made.

    It has threads of its own: they wait for bytes, and the loop's threads are what brings these.
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
        """Wait for what runs; after a failure it stops at its next step.

        No layer is on its way any more, so nothing here waits for bytes that never come.
        """
        self._given_up = kind is not None
        try:
            await finish(self._settled())
        finally:
            self._pool.shutdown(wait=False)
            self._readers.close()

    def start(self, layer: Descriptor, diff_id: str, incoming: Incoming) -> None:
        """Begin to unpack a layer whose transfer begins."""
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
