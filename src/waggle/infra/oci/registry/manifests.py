# SPDX-License-Identifier: Apache-2.0
"""Finds an image in a registry: its manifest for this machine's platform and its configuration.

Called by `Puller`. Reads OCI and Docker (schema 2) documents; `waggle.infra.oci.store.image` parses
them. Every document is checked against the digest that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.domain.reference import ImageReference
from waggle.infra.archive import DIGEST, digest_of, has_digest
from waggle.infra.oci.registry.client import Client
from waggle.infra.oci.registry.endpoints import Endpoint
from waggle.infra.oci.store.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    candidates,
    is_for,
    load_json,
    paired,
    parse_config,
    parse_descriptors,
    parse_manifest,
)

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_ACCEPT = ", ".join((MEDIA_MANIFEST, MEDIA_INDEX, DOCKER_MANIFEST, DOCKER_INDEX))
_NESTING = 4


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image's verified documents and their endpoint. Its layers are not fetched."""

    endpoint: Endpoint
    manifest: Descriptor
    manifest_bytes: bytes
    config: Descriptor
    config_bytes: bytes
    layers: tuple[Descriptor, ...]
    diff_ids: Mapping[str, str]
    """The digest of every layer's tar, keyed by the digest of its blob."""


async def find_manifest(
    client: Client, endpoint: Endpoint, reference: ImageReference, platform: str
) -> tuple[Descriptor, bytes | None]:
    """Find the platform's manifest; return its bytes as well if they had to be fetched.

    Raises ImageMissing, ImageCorrupt, ImageUnavailable.
    """
    found, data = await _fetch(client, endpoint, reference.digest or reference.tag)
    for _ in range(_NESTING):
        if found.media_type in MANIFEST_TYPES:
            return found, data
        chosen = choose(data, platform, endpoint)
        if chosen.media_type in MANIFEST_TYPES:
            return chosen, None
        found, data = await _fetch(client, endpoint, chosen.digest, chosen)
    raise ImageCorrupt("Its indexes are nested too deeply.")


async def find_image(
    client: Client, endpoint: Endpoint, reference: ImageReference, platform: str
) -> RemoteImage:
    """Fetch and check an image's documents. Raises as `find_manifest` does."""
    manifest, data = await find_manifest(client, endpoint, reference, platform)
    if data is None:
        manifest, data = await _fetch(client, endpoint, manifest.digest, manifest)
    config, layers = parse_manifest(data)
    config_bytes = await _config(client, endpoint, config)
    parsed = parse_config(config_bytes)
    if not is_for(platform, parsed.os, parsed.architecture):
        actual = f"{parsed.os}/{parsed.architecture}"
        raise ImageMissing(
            f"{reference} is for {actual[:80]!a}; this machine runs {platform}.",
            hint="Pull an image for this machine's platform.",
        )
    diff_ids = {layer.digest: diff_id for layer, diff_id in paired(layers, parsed.diff_ids)}
    return RemoteImage(endpoint, manifest, data, config, config_bytes, layers, diff_ids)


def choose(index: bytes, platform: str, endpoint: Endpoint) -> Descriptor:
    """Return the likeliest entry of an index for the platform, as `select` does. Pure."""
    what = "The image index"
    entries = parse_descriptors(load_json(index, what), "manifests", what)
    for entry in candidates(entries, platform):
        if entry.media_type not in MANIFEST_TYPES | INDEX_TYPES:
            raise ImageCorrupt(f"{what} lists something that is no image.")
        return entry
    raise ImageMissing(
        f"The image at {endpoint.registry} has no variant for {platform}.",
        hint="Pull an image for this machine's platform.",
    )


async def _fetch(
    client: Client, endpoint: Endpoint, name: str, expected: Descriptor | None = None
) -> tuple[Descriptor, bytes]:
    """Fetch a manifest or index by tag or digest and check it against what is known of it."""
    what = f"image {endpoint.repository} {name}"
    response, data = await client.document(
        endpoint, f"manifests/{name}", {"accept": _ACCEPT}, MAX_DOCUMENT, what
    )
    digest = digest_of(data)
    said = response.headers.get("docker-content-digest", "")
    if DIGEST.fullmatch(name) and not has_digest(data, name):
        raise ImageCorrupt(f"{endpoint.registry} sends another manifest than {name}.")
    if said.startswith("sha256:") and said != digest:
        raise ImageCorrupt(f"{endpoint.registry} sends a manifest that is not {said[:80]!a}.")
    if expected is not None and len(data) != expected.size:
        raise ImageCorrupt(f"Manifest {digest} has {len(data)} bytes, not {expected.size}.")
    media = media_type(data, response)
    if expected is not None and media != expected.media_type:
        raise ImageCorrupt(f"Manifest {digest} is not of the type that its index says.")
    return Descriptor(media, digest, len(data)), data


def media_type(data: bytes, response: httpx2.Response) -> str:
    """Return a document's media type: its own, or else its Content-Type.

    Raises ImageCorrupt when it is no manifest or index that we know, or could be read as both.
    """
    header = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    document = load_json(data, "The image manifest")
    own = document.get("mediaType")
    media = own if isinstance(own, str) and own else header
    if header.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        raise ImageCorrupt(
            "The image has a manifest of Docker's schema 1, which is out of use.",
            hint="Push it again with a current tool.",
        )
    if media not in MANIFEST_TYPES | INDEX_TYPES:
        raise ImageCorrupt(f"The registry sends {media[:80]!a} instead of an image manifest.")
    if ("layers" if media in INDEX_TYPES else "manifests") in document:
        raise ImageCorrupt("The manifest can be read as an index and as an image.")
    return media


async def _config(client: Client, endpoint: Endpoint, config: Descriptor) -> bytes:
    if config.size > MAX_DOCUMENT:
        raise ImageCorrupt(f"The image configuration has more than {MAX_DOCUMENT} bytes.")
    what = f"image configuration {config.digest}"
    _, data = await client.document(endpoint, f"blobs/{config.digest}", {}, config.size, what)
    if not has_digest(data, config.digest) or len(data) != config.size:
        raise ImageCorrupt(f"{endpoint.registry} sends another configuration than its manifest.")
    return data
