# SPDX-License-Identifier: Apache-2.0
"""A manifest as Docker's registries have it, in OCI's terms. Used by `export`.

Only media types differ, so configuration and layers keep their digests; the manifest's changes.
"""

from __future__ import annotations

from waggle.infra.oci.store.image import MEDIA_CONFIG, MEDIA_LAYER, MEDIA_MANIFEST, Descriptor
from waggle.infra.oci.store.layout import Layout, canonical
from waggle.infra.oci.store.select import Selected


def as_oci(layout: Layout, image: Selected) -> bytes:
    """Return the image's manifest, rewritten if it is not OCI's. Raises ImageCorrupt."""
    if image.manifest.media_type == MEDIA_MANIFEST:
        return layout.read_document(image.manifest)
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": _described(MEDIA_CONFIG, image.config),
            "layers": [_described(_layer_type(layer.media_type), layer) for layer in image.layers],
        }
    )


def _described(media_type: str, blob: Descriptor) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _layer_type(media_type: str) -> str:
    for suffix in ("gzip", "zstd"):
        if media_type.endswith(suffix):
            return f"{MEDIA_LAYER}+{suffix}"
    return MEDIA_LAYER
