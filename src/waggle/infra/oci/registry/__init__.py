# SPDX-License-Identifier: Apache-2.0
"""Pulls images into a layout, pushes them, and resolves references at their registry.

Called by the images service and `waggle image pull|push`; `push` sends. A pull fetches missing
blobs into a workspace of the layout, then places them, the manifest and finally the name under the
layout's lock: until then nothing counts as there, and another process's `collect` finds nothing
half-made to remove.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from waggle.domain.errors import (
    ImageCorrupt,
    ImageMissing,
    ImageUnavailable,
    RegistryBusy,
    TooLarge,
)
from waggle.domain.reference import ImageReference
from waggle.infra.oci.registry.blobs import Fetch, Incoming
from waggle.infra.oci.registry.client import Client
from waggle.infra.oci.registry.endpoints import Endpoint, endpoints
from waggle.infra.oci.registry.manifests import RemoteImage, find_image, find_manifest
from waggle.infra.oci.registry.options import Ambient, RegistryOptions, Report, Tally, at_once
from waggle.infra.oci.registry.push import push
from waggle.infra.oci.store.image import Descriptor, distinct
from waggle.infra.oci.store.layout import Layout
from waggle.infra.shared.disk_room import storage_errors
from waggle.tasks import finish

_T = TypeVar("_T")
OnLayer = Callable[[Descriptor, str, Incoming], None]
"""Called when a layer's transfer begins, with its diff id and its incoming bytes."""
_ROUNDS = 3
"""How often blobs may vanish from the store during one pull."""


@dataclass(frozen=True, slots=True)
class Bringing:
    """One pull whose documents are known."""

    layout: Layout
    client: Client
    servers: tuple[Endpoint, ...]
    image: RemoteImage
    name: str
    on_layer: OnLayer | None = None

    async def run(self, tally: Tally) -> None:
        """Run the pull; see `Puller.pull`. Also raises OSError."""
        async with _workspace(self.layout) as directory:
            fetched: dict[str, Path] = {}
            for _ in range(_ROUNDS):
                missing = await asyncio.to_thread(self._missing, fetched)
                lacking = {blob.digest for blob in missing}
                for blob in distinct(self.image.layers):
                    if blob.digest not in lacking:
                        tally.complete(blob)
                jobs = [self._fetcher(blob, directory, tally) for blob in missing]
                await at_once(jobs, self.client.options.parallel)
                fetched |= {blob.digest: directory / blob.hex for blob in missing}
                if await finish(asyncio.to_thread(self._publish, fetched)):
                    return
        raise RegistryBusy("Other processes keep removing blobs of this image from the store.")

    def _missing(self, fetched: dict[str, Path]) -> list[Descriptor]:
        blobs = distinct(self.image.layers)
        return [b for b in blobs if b.digest not in fetched and not self._is_there(b)]

    def _is_there(self, blob: Descriptor) -> bool:
        try:
            return self.layout.blob_path(blob).stat().st_size == blob.size
        except FileNotFoundError:
            return False

    def _fetcher(
        self, blob: Descriptor, directory: Path, tally: Tally
    ) -> Callable[[], Awaitable[None]]:
        async def fetch() -> None:
            # Not in a thread: a cancellation would leave it open.
            incoming = Incoming(directory / blob.hex, blob.algorithm)

            async def from_one(server: Endpoint) -> None:
                try:
                    await Fetch(self.client, server, blob, tally.advance_of(blob)).run(incoming)
                except BaseException:
                    tally.reset(blob)
                    raise

            with contextlib.closing(incoming):
                if self.on_layer is not None:
                    self.on_layer(blob, self.image.diff_ids[blob.digest], incoming)
                await first_of(self.servers, from_one)
            tally.complete(blob)

        return fetch

    def _publish(self, fetched: dict[str, Path]) -> bool:
        """Place all blobs and write the name last; False when a blob that was there is gone."""
        image = self.image
        with self.layout.locked():
            if self._missing(fetched):
                return False
            for digest, path in fetched.items():
                if path.exists():
                    self.layout.put_file(path, digest)
            self.layout.put_bytes(image.config_bytes, image.config.algorithm)
            self.layout.put_bytes(image.manifest_bytes)
            found = image.manifest
            self.layout.tag(self.name, found.digest, found.size, found.media_type)
        return True


async def first_of(servers: tuple[Endpoint, ...], work: Callable[[Endpoint], Awaitable[_T]]) -> _T:
    """Return the result of the first server that succeeds, else raise the last one's failure."""
    for server in servers[:-1]:
        with contextlib.suppress(ImageMissing, ImageCorrupt, ImageUnavailable):
            return await work(server)
    return await work(servers[-1])


@contextlib.asynccontextmanager
async def _workspace(layout: Layout) -> AsyncGenerator[Path]:
    """Give a workspace of the layout; threads wait for its locks and remove it."""
    stack = contextlib.ExitStack()
    try:
        yield await finish(asyncio.to_thread(stack.enter_context, layout.workspace()))
    finally:
        await finish(asyncio.to_thread(stack.close))


_STORE = "The image store cannot be read or written"


class Puller:
    """Pulls and pushes images of one layout; safe for several tasks and processes."""

    def __init__(
        self,
        layout: Layout,
        options: RegistryOptions,
        *,
        platform: str,
        ambient: Ambient | None = None,
        on_layer: OnLayer | None = None,
    ) -> None:
        """`platform` is `os/architecture`, as in `linux/amd64`. Opens nothing yet.

        `on_layer` is called when a layer's transfer begins, with its diff id and incoming bytes; to
        follow the transfer, it must take a reader at once.
        """
        self._layout = layout
        self._options = options
        self._platform = platform
        self._ambient = ambient or Ambient()
        self._on_layer = on_layer

    async def pull(self, reference: ImageReference, progress: Report) -> str:
        """Bring an image into the layout, named `str(reference)`; return its manifest's digest.

        Idempotent: blobs that are there with the right size are not fetched again. Cancellable;
        nothing half-made stays after that or after an error. Raises ImageMissing, ImageCorrupt,
        ImageUnavailable (RegistryBusy if a later try may work), TooLarge, InvalidArgument,
        SettingsInvalid and TimedOut (the layout is locked for too long).
        """
        servers = endpoints(reference, self._options)
        async with Client(self._options, self._ambient) as client:
            image = await first_of(
                servers, lambda server: find_image(client, server, reference, self._platform)
            )
            wanted = distinct(image.layers)
            total = sum(blob.size for blob in wanted)
            if total > self._options.max_bytes:
                raise TooLarge(
                    f"{reference} has {total} bytes of layers; the limit is"
                    f" {self._options.max_bytes}."
                )
            order = (image.endpoint, *(s for s in servers if s != image.endpoint))
            work = Bringing(self._layout, client, order, image, str(reference), self._on_layer)
            with storage_errors(_STORE):
                await work.run(Tally(wanted, progress, f"Pulling {reference}"))
        return image.manifest.digest

    async def resolve(self, reference: ImageReference) -> Descriptor:
        """Return the manifest (for our platform) that a reference means at its registry now.

        Fetches only the manifest or index. Raises as `pull` does.
        """
        servers = endpoints(reference, self._options)
        async with Client(self._options, self._ambient) as client:
            found, _ = await first_of(
                servers, lambda server: find_manifest(client, server, reference, self._platform)
            )
        return found

    async def push(
        self, name: str, reference: ImageReference, progress: Report, *, mount_from: str = ""
    ) -> str:
        """Send the stored image `name` to a registry as `reference`; return its digest.

        Sends only the platform's manifest and no blob that the registry has; `mount_from` names
        another repository there that may have them. Idempotent, cancellable. Raises ImageMissing,
        ImageCorrupt, ImageUnavailable, InvalidArgument, SettingsInvalid.
        """
        async with Client(self._options, self._ambient, "pull,push") as client:
            with storage_errors(_STORE):
                return await push(
                    client,
                    self._layout,
                    name,
                    reference,
                    self._platform,
                    progress=progress,
                    mount_from=mount_from,
                )
