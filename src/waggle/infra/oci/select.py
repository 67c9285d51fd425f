# SPDX-License-Identifier: Apache-2.0
"""Which image of a layout is meant, and which variant of it fits this machine.

Called by `store`, `load` and `export`. Reads a layout's small documents, verified; no layers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.domain.reference import canonical_name
from waggle.infra.oci.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    REF_NAME,
    Descriptor,
    ImageConfig,
    load_json,
    parse_config,
    parse_descriptors,
    parse_manifest,
)
from waggle.infra.oci.layout import Layout
from waggle.infra.oci.paths import listed

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
FULL_NAME = "io.containerd.image.name"
"""What Docker and containerd write beside the tag."""
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
    """Find the entry with that name (of several the last), or the only one when `tag` is empty.

    `what` is the layout's name in messages. Raises ImageMissing, ImageCorrupt and OSError.
    """
    entries = layout.index()
    if not tag and len(entries) == 1:
        return entries[0]
    fitting = [e for e in entries if tag and tag in _names(e)]
    if tag and not fitting:
        fitting = [e for e in entries if any(same_image(name, tag) for name in _names(e))]
    if fitting:
        return fitting[-1]
    what_else = f"an image '{tag}'" if tag else "exactly one image"
    names = listed(sorted({name for e in entries for name in _names(e)[:1]}))
    raise ImageMissing(
        f"{what} does not hold {what_else}.",
        hint=f"Add ':' and a name. Its names are: {names}.",
    )


def _names(entry: Descriptor) -> tuple[str, ...]:
    """Return what an index calls an entry, the more telling name first."""
    found = (entry.annotations.get(key, "") for key in (FULL_NAME, REF_NAME))
    return tuple(name for name in found if name)


def name_of(entry: Descriptor) -> str:
    """Return the name that an index gives an entry, if it is more than a tag; else nothing.

    Many tools write the tag alone as the name in a layout: it does not say which image it is.
    """
    return next((name for name in _names(entry) if "/" in name or ":" in name), "")


def same_image(name: str, other: str) -> bool:
    """Tell whether two names are one reference, spelt differently."""
    canonical = canonical_name(name)
    return bool(canonical) and canonical == canonical_name(other)


def for_platform(layout: Layout, found: Descriptor, platform: str, remedy: str = "") -> Descriptor:
    """Follow indexes to the manifest for `platform`. Raises ImageCorrupt."""
    for _ in range(_NESTING):
        if found.media_type in MANIFEST_TYPES:
            return found
        if found.media_type not in INDEX_TYPES:
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
            f"{what} is for {listed([actual])}; this machine runs {platform}.",
            hint="Bring the image for this machine's platform.",
        )
    return Selected(manifest, config, parsed, layers)
