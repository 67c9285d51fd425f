# SPDX-License-Identifier: Apache-2.0
"""Which blobs belong to an image. Used by `layout` to collect the others, by `store` to count."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.store.image import Descriptor, load_json, parse_descriptors, parse_manifest

_DEPTH = 4


def reachable(entry: Descriptor, read: Callable[[Descriptor], bytes]) -> set[str]:
    """Return the names (hex digests) of all blobs below an index entry, its own included.

    `read` gives a verified document. One that it refuses with ImageCorrupt counts itself, but
    nothing below it.
    """
    found: set[str] = set()
    _follow(entry, read, found, depth=0)
    return found


def _follow(
    descriptor: Descriptor, read: Callable[[Descriptor], bytes], found: set[str], depth: int
) -> None:
    if descriptor.hex in found or depth > _DEPTH:
        return
    found.add(descriptor.hex)
    if not descriptor.media_type.endswith("+json"):
        return
    with contextlib.suppress(ImageCorrupt):
        data = read(descriptor)
        document = load_json(data, "document")
        if "manifests" in document:
            children = parse_descriptors(document, "manifests", "index")
        elif "config" in document:
            config, children = parse_manifest(data)
            found.add(config.hex)
        else:
            return
        for child in children:
            _follow(child, read, found, depth + 1)
