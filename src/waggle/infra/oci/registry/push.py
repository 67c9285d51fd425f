# SPDX-License-Identifier: Apache-2.0
"""Sends a stored image to a registry: the blobs that it lacks, in one piece, then the manifest.

Called by `Puller.push`. Never writes to mirrors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import BinaryIO

import httpx2

from waggle.domain.errors import ImageMissing, ImageUnavailable, InvalidArgument
from waggle.domain.reference import ImageReference
from waggle.infra.oci.registry.client import Client
from waggle.infra.oci.registry.endpoints import Endpoint, origin, own_endpoint, retrying, shown
from waggle.infra.oci.registry.exchange import Request
from waggle.infra.oci.registry.options import Report, Tally, at_once
from waggle.infra.oci.store.image import Descriptor, distinct
from waggle.infra.oci.store.layout import Layout
from waggle.infra.oci.store.select import Selected, select
from waggle.tasks import finish

_CHUNK = 1 << 20


async def push(
    client: Client,
    layout: Layout,
    name: str,
    reference: ImageReference,
    platform: str,
    *,
    progress: Report,
    mount_from: str = "",
) -> str:
    """Send an image; see `Puller.push`."""
    endpoint = own_endpoint(reference, client.options)
    image = await asyncio.to_thread(_stored, layout, name, platform)
    manifest = image.manifest
    if reference.digest and reference.digest != manifest.digest:
        raise InvalidArgument(
            f"'{name}' has the digest {manifest.digest}, not {reference.digest}.",
            hint="Push it by a tag.",
        )
    blobs = distinct((image.config, *image.layers))
    tally = Tally(blobs, progress, f"Pushing {reference}")
    upload = _Upload(client, layout, endpoint, mount_from)
    await at_once([upload.job(blob, tally) for blob in blobs], client.options.parallel)
    data = await asyncio.to_thread(layout.read_document, manifest)
    await upload.manifest(reference, manifest, data)
    return manifest.digest


def _stored(layout: Layout, name: str, platform: str) -> Selected:
    found = layout.names().get(name) if layout.exists else None
    if found is None:
        raise ImageMissing(f"There is no image '{name}' on this machine.", hint="")
    return select(layout, found, platform, f"Image {name}", "")


@dataclass(frozen=True, slots=True)
class _Upload:
    client: Client
    layout: Layout
    endpoint: Endpoint
    mount_from: str

    def job(self, blob: Descriptor, tally: Tally) -> Callable[[], Awaitable[None]]:
        async def once() -> None:
            tally.reset(blob)
            if not await self._has(blob):
                await self._send(blob, tally)

        async def run() -> None:
            await retrying(once, self.client.options, self.client.ambient)
            tally.complete(blob)

        return run

    async def _has(self, blob: Descriptor) -> bool:
        request = Request("HEAD", self.endpoint.url(f"blobs/{blob.digest}"))
        what = f"blob {blob.digest}"
        async with self.client.open(self.endpoint, request, {200, 404}, what) as response:
            return response.status_code == 200

    async def _send(self, blob: Descriptor, tally: Tally) -> None:
        location = await self._begin(blob)
        if location is None:
            return
        quoted = blob.digest.replace(":", "%3A").encode()
        query = location.query + (b"&" if location.query else b"") + b"digest=" + quoted
        headers = {"content-type": "application/octet-stream", "content-length": str(blob.size)}
        file = await asyncio.to_thread(self.layout.open_blob, blob)
        try:

            def body() -> AsyncIterator[bytes]:
                tally.reset(blob)
                return _read(file, tally.advance_of(blob))

            request = Request("PUT", location.copy_with(query=query), headers, body)
            what = f"permission to write to {self.endpoint.name}"
            async with self.client.open(self.endpoint, request, {201}, what):
                return
        finally:
            file.close()

    async def _begin(self, blob: Descriptor) -> httpx2.URL | None:
        """Open an upload and return its URL; None when the registry mounted the blob."""
        query = {"mount": blob.digest, "from": self.mount_from} if self.mount_from else {}
        url = self.endpoint.url("blobs/uploads/", **query)
        what = f"permission to write to {self.endpoint.name}"
        async with self.client.open(
            self.endpoint, Request("POST", url), {201, 202}, what
        ) as response:
            if response.status_code == 201:
                return None
            return upload_url(url, response.headers.get("location", ""))

    async def manifest(self, reference: ImageReference, found: Descriptor, data: bytes) -> None:
        """Write the manifest under the reference's tag or digest."""
        url = self.endpoint.url(f"manifests/{reference.digest or reference.tag}")
        what = f"permission to write {reference}"

        async def once() -> None:
            request = Request("PUT", url, {"content-type": found.media_type}, data)
            async with self.client.open(self.endpoint, request, {201}, what) as response:
                said = response.headers.get("docker-content-digest", found.digest)
            if said != found.digest:
                raise ImageUnavailable(f"{self.endpoint.registry} stored another manifest.")

        await retrying(once, self.client.options, self.client.ambient)


async def _read(file: BinaryIO, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Yield the file's bytes from its start."""
    file.seek(0)
    while chunk := await finish(asyncio.to_thread(file.read, _CHUNK)):
        yield chunk
        advance(len(chunk))


def upload_url(source: httpx2.URL, location: str) -> httpx2.URL:
    """Return an upload's URL: relative to the request, or on the same origin. Pure.

    Raises ImageUnavailable for another origin: image and credentials are for the registry alone.
    """
    try:
        target = source.join(location) if location else httpx2.URL()
    except httpx2.InvalidURL:
        target = httpx2.URL()
    if not location or origin(target) != origin(source) or target.userinfo:
        raise ImageUnavailable(f"{shown(source)} wants the upload to go elsewhere.")
    return target
