# SPDX-License-Identifier: Apache-2.0
"""Brings images from registries when they are needed: decides, pulls once, unpacks meanwhile.

Called by `ImageService` before an image is used. Whether to ask is decided by
`domain.image.needs_pull`; asking is `infra.oci.registry`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Self

import structlog

from waggle.domain.errors import ImageUnavailable, InvalidArgument, WaggleError
from waggle.domain.image import PullRule, needs_pull
from waggle.domain.reference import ImageReference, parse_reference
from waggle.infra.files import FileLock
from waggle.infra.oci.asked import Asked
from waggle.infra.oci.image import Descriptor
from waggle.infra.oci.layers import LayerData, read_layer
from waggle.infra.oci.limits import DEFAULT_LIMITS
from waggle.infra.oci.registry.incoming import Incoming
from waggle.infra.oci.registry.options import RegistryOptions, Report, Transfer
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.unpacked import UnpackedLayers
from waggle.infra.tasks import finish

log = structlog.get_logger(__name__)
_LOCK_SECONDS = 3600.0
_UNPACKING = 2
"""Layers that are unpacked at once while others are still fetched."""


@dataclass(frozen=True, slots=True)
class PullPolicy:
    """What the operator wants of registries."""

    options: RegistryOptions = field(default_factory=RegistryOptions)
    rule: PullRule | timedelta = PullRule.MISSING
    default_registry: str = ""


class Pulls:
    """Pulls into one store. Safe for any number of tasks and processes."""

    def __init__(
        self,
        store: ImageStore,
        layers: UnpackedLayers,
        policy: PullPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._layers = layers
        self._policy = policy
        self._asked = Asked(store.layout.path)
        self._clock = clock

    async def bring(self, text: str, progress: Report) -> str:
        """Return the name under which the store has the image that `text` means, pulled if need be.

        What no registry is to be asked for keeps its name, whether it is there or not. Where the
        image is here and was only to be asked about again, a registry that fails is logged and the
        image serves on, unless the rule is `always`. Cancellable. Raises what `Puller.pull` raises.
        """
        reference = self._remote(text)
        if reference is None or not self._is_due(reference):
            return text if reference is None else str(reference)
        name = str(reference)
        async with FileLock(self._asked.path(f"{name}.lock"), timeout=_LOCK_SECONDS):
            began = self._clock()
            if self._is_due(reference):  # nobody else was faster
                try:
                    await self.pull(reference, progress)
                    self._asked.note(name, began)
                except ImageUnavailable as error:
                    if self._policy.rule is PullRule.ALWAYS or not self._is_here(name):
                        raise
                    log.warning("image_not_refreshed", image=name, why=error.message)
        return name

    def may_bring(self, text: str) -> bool:
        """Whether a registry could be asked for what `text` means."""
        return self._policy.rule is not PullRule.NEVER and self._remote(text) is not None

    async def pull(self, reference: ImageReference, progress: Report) -> str:
        """Pull now, whatever the rule; return the manifest's digest. See `Puller.pull`."""
        from waggle.infra.oci.registry.pull import Puller  # noqa: PLC0415 (0.2 s that few need)

        async with _Unpacking(self._layers) as unpacking:
            puller = Puller(
                self._store.layout,
                self._policy.options,
                platform=self._store.platform,
                on_layer=unpacking.start,
            )
            return await puller.pull(reference, progress)

    def _remote(self, text: str) -> ImageReference | None:
        """What to ask a registry for; None for names that only this machine can know."""
        if self._is_here(text) and not _names_registry(text):
            return None
        try:
            reference = parse_reference(text, self._policy.default_registry)
        except InvalidArgument:
            return None
        return reference if reference.registry else None

    def _is_due(self, reference: ImageReference) -> bool:
        name = str(reference)
        asked = self._asked.when(name)
        age = None if asked is None else timedelta(seconds=max(0.0, self._clock() - asked))
        return needs_pull(reference, self._policy.rule, is_here=self._is_here(name), age=age)

    def _is_here(self, name: str) -> bool:
        try:
            self._store.resolve(name)
        except WaggleError:
            return False
        return True


def _names_registry(text: str) -> bool:
    try:
        return bool(parse_reference(text).registry)
    except InvalidArgument:
        return False


class _Unpacking:
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
        def unpack(data: Path) -> LayerData:
            return read_layer(
                reader, layer, diff_id, data, DEFAULT_LIMITS, self._advance, verified=True
            )

        with reader:
            self._advance(0)
            self._layers.add(diff_id, unpack)

    def _advance(self, _count: int) -> None:
        if self._given_up:
            raise ImageUnavailable("The pull was given up.")


def describe(transfer: Transfer) -> tuple[float, str]:
    """A share of 1 and a line for whoever waits. Pure."""
    share = transfer.done_bytes / transfer.total_bytes if transfer.total_bytes else 0.0
    amount = f"{transfer.done_bytes / 1e6:.0f} of {transfer.total_bytes / 1e6:.0f} MB"
    layers = f"{transfer.done_layers} of {transfer.layers} layers"
    return min(share, 1.0), f"{transfer.text}: {amount}, {layers}"
