# SPDX-License-Identifier: Apache-2.0
"""Which image of a layout is meant, and which variant of it fits this machine.

Called by `store`, `load` and `export`. Reads a layout's small documents, verified; no layers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument
from waggle.domain.reference import parse_reference
from waggle.infra.oci.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    ImageConfig,
    load_json,
    parse_config,
    parse_descriptors,
    parse_manifest,
)
from waggle.infra.oci.layout import Layout

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFESTS = {MEDIA_MANIFEST, DOCKER_MANIFEST}
_INDEXES = {MEDIA_INDEX, DOCKER_INDEX}
_NESTING = 4


def host_platform() -> str:
    """Return this machine's platform as OCI spells it, such as `linux/amd64`."""
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


@dataclass(frozen=True, slots=True)
class Selected:
    """One image for one platform: manifest and configuration are verified, layers not yet read."""

    manifest: Descriptor
    config: Descriptor
    parsed: ImageConfig
    layers: tuple[Descriptor, ...]


def by_tag(layout: Layout, tag: str, what: str) -> Descriptor:
    """Find the entry with that name, or the only one when `tag` is empty.

    `what` is the layout's name in messages. Raises ImageMissing, ImageCorrupt and OSError.
    """
    names = layout.names()
    listed = ", ".join(sorted(names)) or "none"
    if not tag:
        entries = layout.index()
        if len(entries) == 1:
            return entries[0]
        raise ImageMissing(
            f"{what} does not hold exactly one image.",
            hint=f"Add ':' and a name. Its names are: {listed}.",
        )
    if tag in names:
        return names[tag]
    fitting = [descriptor for name, descriptor in names.items() if same_image(name, tag)]
    if len(fitting) != 1:
        raise ImageMissing(
            f"{what} does not hold an image '{tag}'.", hint=f"Its names are: {listed}."
        )
    return fitting[0]


def same_image(name: str, other: str) -> bool:
    """Tell whether two names are one reference, spelt differently."""
    try:
        return parse_reference(name) == parse_reference(other)
    except InvalidArgument:
        return False


def for_platform(layout: Layout, found: Descriptor, platform: str, remedy: str = "") -> Descriptor:
    """Follow indexes to the manifest for `platform`. Raises ImageCorrupt."""
    for _ in range(_NESTING):
        if found.media_type in _MANIFESTS:
            return found
        if found.media_type not in _INDEXES:
            raise ImageCorrupt(f"{found.digest} is not an image manifest.")
        what = "The image index"
        entries = parse_descriptors(
            load_json(layout.read_document(found, remedy), what), "manifests", what
        )
        fitting = [e for e in entries if e.platform in {"", platform}]
        if not fitting:
            raise ImageCorrupt(f"It has no variant for {platform}.")
        found = fitting[0]
    raise ImageCorrupt("Its indexes are nested too deeply.")


def select(layout: Layout, found: Descriptor, platform: str, what: str, remedy: str) -> Selected:
    """Read and verify manifest and configuration of the variant for `platform`.

    `what` is the image's name in messages and `remedy` the hint when it is damaged. Raises
    ImageCorrupt, and ImageMissing when it is for another platform only.
    """
    try:
        manifest = for_platform(layout, found, platform, remedy)
        config, layers = parse_manifest(layout.read_document(manifest, remedy))
        parsed = parse_config(layout.read_document(config, remedy))
    except ImageCorrupt as error:
        raise ImageCorrupt(f"{what}: {error.message}", hint=error.hint or remedy) from error
    actual = f"{parsed.os}/{parsed.architecture}"
    if actual != platform:
        raise ImageMissing(
            f"{what} is for {actual}; this machine runs {platform}.",
            hint="Bring the image for this machine's platform.",
        )
    return Selected(manifest, config, parsed, layers)
