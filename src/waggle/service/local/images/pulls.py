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
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog

from waggle.domain.errors import ImageUnavailable, InvalidArgument, WaggleError
from waggle.domain.image import PullRule, needs_pull
from waggle.domain.reference import ImageReference, parse_reference
from waggle.infra.oci.layers.unpacked import UnpackedLayers
from waggle.infra.oci.registry.options import RegistryOptions, Report, Transfer
from waggle.infra.oci.store.store import Asked, ImageStore
from waggle.infra.shared.disk_room import DiskRoom
from waggle.infra.shared.files import FileLock
from waggle.service.local.images.unpacking import Unpacking

log = structlog.get_logger(__name__)
_LOCK_SECONDS = 3600.0


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
        *,
        room: DiskRoom | None = None,
    ) -> None:
        self._room = room or DiskRoom("the image cache", store.layout.path, 0)
        self._store = store
        self._layers = layers
        self._policy = policy
        self._asked = Asked(store.layout.path)
        self._clock = clock

    def name_of(self, text: str) -> str:
        """The name that the store has, or would have, for what `text` means. Reads files."""
        reference = self._remote(text)
        return text if reference is None else str(reference)

    async def bring(
        self, text: str, progress: Report, place: AbstractAsyncContextManager[None] | None = None
    ) -> str:
        """Return the name under which the store has the image that `text` means, pulled if need be.

        It pulls within `place`, which a pull that is not due does not enter.

        What no registry is to be asked for keeps its name, whether it is there or not. Where the
        image is here and was only to be asked about again, a registry that fails is logged and the
        image serves on, unless the rule is `always`. Cancellable. Raises what `Puller.pull` raises.
        """
        name, due = await asyncio.to_thread(self._due, text)
        if due is None:
            return name
        lock = await asyncio.to_thread(self._asked.path, f"{name}.lock")
        async with FileLock(lock, timeout=_LOCK_SECONDS):
            began = self._clock()
            if await asyncio.to_thread(self._is_due, due):  # nobody else was faster
                try:
                    async with place or contextlib.nullcontext():
                        await self._pull(due, progress, self._policy.options)
                    await asyncio.to_thread(self._asked.note, name, began)
                except ImageUnavailable as error:
                    is_here = await asyncio.to_thread(self._is_here, name)
                    if self._policy.rule is PullRule.ALWAYS or not is_here:
                        raise
                    log.warning("image_not_refreshed", image=name, why=error.message)
        return name

    def may_bring(self, text: str) -> bool:
        """Whether a registry could be asked for what `text` means. Reads files."""
        return self._policy.rule is not PullRule.NEVER and self._remote(text) is not None

    async def pull(self, reference: ImageReference, progress: Report) -> str:
        """Pull now, whatever the rule, as the operator: from private registries too.

        Returns the manifest's digest. See `Puller.pull`. Raises DiskFull, too.
        """
        return await self._pull(reference, progress, replace(self._policy.options, named=None))

    async def _pull(
        self, reference: ImageReference, progress: Report, options: RegistryOptions
    ) -> str:
        self._room.require()
        from waggle.infra.oci.registry.pull import Puller  # noqa: PLC0415 (0.2 s that few need)

        async with Unpacking(self._layers) as unpacking:
            puller = Puller(
                self._store.layout,
                options,
                platform=self._store.platform,
                on_layer=unpacking.start,
            )
            return await puller.pull(reference, progress)

    def _due(self, text: str) -> tuple[str, ImageReference | None]:
        """The name that the store has for `text`, and what to ask a registry for now, if any."""
        reference = self._remote(text)
        if reference is None:
            return text, None
        return str(reference), reference if self._is_due(reference) else None

    def _remote(self, text: str) -> ImageReference | None:
        """What a registry has under that name; None for names that only this machine can know."""
        try:
            reference = parse_reference(text)
            if not reference.registry and not self._is_here(text):
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


def describe(transfer: Transfer) -> tuple[float, str]:
    """A share of 1 and a line for whoever waits. Pure."""
    share = transfer.done_bytes / transfer.total_bytes if transfer.total_bytes else 0.0
    amount = f"{transfer.done_bytes / 1e6:.0f} of {transfer.total_bytes / 1e6:.0f} MB"
    layers = f"{transfer.done_layers} of {transfer.layers} layers"
    return min(share, 1.0), f"{transfer.text}: {amount}, {layers}"
