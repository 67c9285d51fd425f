# SPDX-License-Identifier: Apache-2.0
"""Pulls images from registries when they are needed, and limits how many are pulled at once.

Called by `ImageService` before an image is used. `domain.image.needs_pull` decides whether to ask a
registry; `infra.oci.registry` asks it. `PullPlaces` has places in all and for one owner, and knows
nothing of images. The owner with the fewest places is served first, then the earliest, so that an
owner with many pulls does not delay another. Waiting holds no connection and no thread; the number
of waiting pulls is bounded by the environments they are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import structlog

from waggle.domain.access import SeveralOwners, one_owner, share_of
from waggle.domain.errors import ImageUnavailable, InvalidArgument, WaggleError
from waggle.domain.image import PullRule, needs_pull
from waggle.domain.reference import ImageReference, parse_reference
from waggle.infra.oci.layers import UnpackedLayers
from waggle.infra.oci.registry.options import RegistryOptions, Report, Transfer
from waggle.infra.oci.store import ImageStore, Queries
from waggle.infra.shared.disk_room import DiskRoom
from waggle.infra.shared.files import FileLock
from waggle.service.local.images.disk_maker import Unpacking

log = structlog.get_logger(__name__)
_LOCK_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class PullPolicy:
    """The operator's settings for registries."""

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
        self._queries = Queries(store.layout.path)
        self._clock = clock

    def name_of(self, text: str) -> str:
        """Return the store's name, present or future, for what `text` means. Reads files."""
        reference = self._remote(text)
        return text if reference is None else str(reference)

    async def bring(
        self, text: str, progress: Report, place: AbstractAsyncContextManager[None] | None = None
    ) -> str:
        """Return the name under which the store has the image that `text` means, pulled if need be.

        It pulls within `place`, which is not entered if no pull is due. A name that needs no
        registry is returned as it is, whether the image exists or not. If the image is here and is
        only refreshed, a failing registry is logged and the image is used, unless the rule is
        `always`. Cancellable. Raises what `Puller.pull` raises.
        """
        name, due = await asyncio.to_thread(self._due, text)
        if due is None:
            return name
        lock = await asyncio.to_thread(self._queries.path, f"{name}.lock")
        async with FileLock(lock, timeout=_LOCK_SECONDS):
            began = self._clock()
            if await asyncio.to_thread(self._is_due, due):  # no other process was faster
                try:
                    async with place or contextlib.nullcontext():
                        await self._pull(due, progress, self._policy.options)
                    await asyncio.to_thread(self._queries.note, name, began)
                except ImageUnavailable as error:
                    is_here = await asyncio.to_thread(self._is_here, name)
                    if self._policy.rule is PullRule.ALWAYS or not is_here:
                        raise
                    log.warning("image_not_refreshed", image=name, why=error.message)
        return name

    def may_bring(self, text: str) -> bool:
        """Return whether a registry may have what `text` means. Reads files."""
        return self._policy.rule is not PullRule.NEVER and self._remote(text) is not None

    async def pull(self, reference: ImageReference, progress: Report) -> str:
        """Pull now, whatever the rule, as the operator: from private registries, too.

        Returns the manifest's digest. See `Puller.pull`. Raises DiskFull, too.
        """
        return await self._pull(reference, progress, replace(self._policy.options, named=None))

    async def _pull(
        self, reference: ImageReference, progress: Report, options: RegistryOptions
    ) -> str:
        self._room.require()
        from waggle.infra.oci.registry import Puller  # noqa: PLC0415 (0.2 s that few need)

        async with Unpacking(self._layers) as unpacking:
            puller = Puller(
                self._store.layout,
                options,
                platform=self._store.platform,
                on_layer=unpacking.start,
            )
            return await puller.pull(reference, progress)

    def _due(self, text: str) -> tuple[str, ImageReference | None]:
        """Return the store's name for `text`, and what to ask a registry for now, if any."""
        reference = self._remote(text)
        if reference is None:
            return text, None
        return str(reference), reference if self._is_due(reference) else None

    def _remote(self, text: str) -> ImageReference | None:
        """Return the registry's reference for `text`; None if only this host can know it."""
        try:
            reference = parse_reference(text)
            if not reference.registry and not self._is_here(text):
                reference = parse_reference(text, self._policy.default_registry)
        except InvalidArgument:
            return None
        return reference if reference.registry else None

    def _is_due(self, reference: ImageReference) -> bool:
        name = str(reference)
        last = self._queries.when(name)
        age = None if last is None else timedelta(seconds=max(0.0, self._clock() - last))
        return needs_pull(reference, self._policy.rule, is_here=self._is_here(name), age=age)

    def _is_here(self, name: str) -> bool:
        try:
            self._store.resolve(name)
        except WaggleError:
            return False
        return True


def describe(transfer: Transfer) -> tuple[float, str]:
    """Return the share done, of 1, and a line for the client. Pure."""
    share = transfer.done_bytes / transfer.total_bytes if transfer.total_bytes else 0.0
    amount = f"{transfer.done_bytes / 1e6:.0f} of {transfer.total_bytes / 1e6:.0f} MB"
    layers = f"{transfer.done_layers} of {transfer.layers} layers"
    return min(share, 1.0), f"{transfer.text}: {amount}, {layers}"


Owners = Callable[[], Sequence[str]]
"""Returns the owners that wait for a pull. Without any, it runs until its place is wanted."""


@dataclass(eq=False, slots=True)
class _Pull:
    """A pull that has a place or waits for one. `owner` is the account on which it began."""

    owners: Owners
    report: Callable[[int], None]
    task: asyncio.Task[Any] | None
    owner: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    ahead: int = -1

    def account(self) -> str | None:
        """Return the owner whose account it is on: if that one has gone, the next that waits."""
        owners = self.owners()
        return self.owner if self.owner in owners else next(iter(owners), None)


class PullPlaces:
    """The places of one server, `most` in all; half of them for one owner if there are several."""

    def __init__(self, most: int, several_owners: SeveralOwners = one_owner) -> None:
        self._most = most
        self._several_owners = several_owners
        self._waiting: list[_Pull] = []
        self._under_way: list[_Pull] = []

    @contextlib.asynccontextmanager
    async def place(self, owners: Owners, report: Callable[[int], None]) -> AsyncGenerator[None]:
        """Wait for a place and hold it. Without `owners`, the calling task may be cancelled.

        While it waits, `report` gets the number of pulls ahead. Call `look` if `owners` changes.
        """
        pull = _Pull(owners, report, asyncio.current_task())
        self._waiting.append(pull)
        try:
            self.look()
            await pull.begun.wait()
            yield
        finally:
            (self._under_way if pull.begun.is_set() else self._waiting).remove(pull)
            self.look()

    def look(self) -> None:
        """Give places to the next pulls, and report to the others how many are ahead."""
        while turn := self._next():
            if len(self._under_way) >= self._most:
                self._end_one_without_owners()
                break
            pull, pull.owner = turn
            self._waiting.remove(pull)
            self._under_way.append(pull)
            pull.begun.set()
        for ahead, pull in enumerate(self._waiting):
            if pull.ahead != ahead:
                pull.ahead = ahead
                pull.report(ahead)

    def _next(self) -> tuple[_Pull, str] | None:
        """Return the next pull, whether or not a place is free, and the owner it counts for."""
        accounts = [pull.account() for pull in self._under_way]
        turns = [
            (accounts.count(owner), pull, owner)
            for pull in self._waiting
            for owner in pull.owners()
        ]
        held, pull, owner = min(turns, key=lambda turn: turn[0], default=(0, None, ""))
        share = share_of(self._most, several=self._several_owners())
        return (pull, owner) if pull is not None and held < share else None

    def _end_one_without_owners(self) -> None:
        """Cancel the oldest pull without owners, unless one of them is about to end."""
        idle = [pull for pull in self._under_way if not pull.owners()]
        if idle and not any(pull.ending for pull in idle) and (task := idle[0].task):
            idle[0].ending = True
            task.cancel()
