# SPDX-License-Identifier: Apache-2.0
"""A finished layer -> an image with a name in a layout: configuration, manifest, index.

Called by `build`. What an image was made from is noted in a label, so that images which stand on
it know whether it is what they want.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path as FilePath

from waggle.infra.oci.build.definition import ImageDefinition
from waggle.infra.oci.build.pack import PackedLayer
from waggle.infra.oci.store.image import MEDIA_CONFIG, MEDIA_LAYER, MEDIA_MANIFEST, ResolvedImage
from waggle.infra.oci.store.layout import Layout, canonical
from waggle.infra.oci.store.select import host_platform

FINGERPRINT = "waggle.definition"
"""The label that holds the `fingerprint`."""


def fingerprint(definition: ImageDefinition, mirror: str) -> str:
    """Tell definitions and archives apart: 16 hex digits."""
    return hashlib.sha256(f"{definition!r} {mirror}".encode()).hexdigest()[:16]


def publish(
    definition: ImageDefinition,
    mirror: str,
    below: ResolvedImage | None,
    layer: PackedLayer,
    blob: FilePath,
    layout: Layout,
) -> None:
    """Put the blobs into the layout, then name them; until then nothing of it is an image."""
    os_name, architecture = host_platform().split("/", 1)
    created = datetime.fromtimestamp(definition.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    settings: dict[str, object] = {
        "Env": [f"{key}={value}" for key, value in sorted(definition.env.items())],
        "Labels": {**definition.labels, FINGERPRINT: fingerprint(definition, mirror)},
    }
    if definition.cmd:
        settings["Cmd"] = list(definition.cmd)
    names = _names(definition)
    config = {
        "architecture": architecture,
        "os": os_name,
        "created": created,
        "config": settings,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*(below.config.diff_ids if below else ()), layer.diff_id],
        },
        "history": [{"created": created, "created_by": f"waggle image build {n}"} for n in names],
    }
    with layout.locked():
        layout.put_file(blob, layer.digest)
        config_digest, config_size = layout.put_bytes(canonical(config))
        own: Mapping[str, object] = {
            "mediaType": f"{MEDIA_LAYER}+gzip",
            "digest": layer.digest,
            "size": layer.size,
        }
        lower = [
            {"mediaType": each.media_type, "digest": each.digest, "size": each.size}
            for each in (below.layers if below else ())
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": {"mediaType": MEDIA_CONFIG, "digest": config_digest, "size": config_size},
            "layers": [*lower, own],
        }
        digest, size = layout.put_bytes(canonical(manifest))
        layout.tag(definition.name, digest, size)


def _names(definition: ImageDefinition) -> list[str]:
    """The images whose layers are in it, lowest first."""
    below = _names(definition.base) if definition.base else []
    return [*below, definition.name]
