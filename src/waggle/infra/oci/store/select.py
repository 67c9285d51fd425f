# SPDX-License-Identifier: Apache-2.0
"""Selects an image of a layout and its variant for this machine; parses local image sources.

Called by `store`, `load`, `export` and the services. Reads and verifies a layout's small documents,
no layers. Local sources are spelt as skopeo does: `oci:/path[:tag]`, `oci-archive:/path[:tag]`,
`docker-archive:/path[:name]`, `dir:/path`, and `/path[:tag]` for a layout or an archive; parsing
them accesses no file.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument
from waggle.domain.reference import canonical_name
from waggle.infra.archive import digest_of, listed
from waggle.infra.oci.store.image import (
    CONFIG_TYPES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    REF_NAME,
    Descriptor,
    ImageConfig,
    architecture,
    candidates,
    is_for,
    load_json,
    parse_config,
    parse_descriptors,
    parse_manifest,
)
from waggle.infra.oci.store.layout import Layout

FULL_NAME = "io.containerd.image.name"
"""The annotation that Docker and containerd write besides the tag."""
_NESTING = 4
_DOCUMENTS = 64


def host_platform() -> str:
    """Return this machine's platform as OCI spells it, such as `linux/amd64`."""
    return f"linux/{architecture(os.uname().machine)}"


@dataclass(frozen=True, slots=True)
class Selected:
    """One image for one platform: manifest and configuration are verified, layers not yet read."""

    manifest: Descriptor
    digest: str
    """The manifest's sha256, whatever algorithm its descriptor uses."""
    config: Descriptor
    parsed: ImageConfig
    layers: tuple[Descriptor, ...]


def by_tag(layout: Layout, tag: str, what: str, platform: str) -> Descriptor:
    """Find the entry with that name (of several the last), or the only one if `tag` is empty.

    The only one may also be the only one for `platform`, beside attestations and other platforms.
    `what` is the layout's name in messages. Raises ImageMissing, ImageCorrupt and OSError.
    """
    entries = layout.index()
    usable = entries if tag or len(entries) == 1 else candidates(entries, platform)
    if not tag and len(usable) == 1:
        return usable[0]
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
    """Return the names of an entry in an index, the more specific one first."""
    found = (entry.annotations.get(key, "") for key in (FULL_NAME, REF_NAME))
    return tuple(name for name in found if name)


def name_of(entry: Descriptor) -> str:
    """Return the name that an index gives an entry, if it is more than a tag; else empty.

    Many tools write only the tag as the name in a layout, which does not identify the image.
    """
    return next((name for name in _names(entry) if "/" in name or ":" in name), "")


def same_image(name: str, other: str) -> bool:
    """Return whether two names are different spellings of one reference."""
    canonical = canonical_name(name)
    return bool(canonical) and canonical == canonical_name(other)


def for_platform(layout: Layout, found: Descriptor, platform: str, remedy: str = "") -> Descriptor:
    """Follow indexes to the manifest for `platform`. Raises ImageCorrupt.

    An entry without a platform is examined, unless it is the only one.
    """
    if found.media_type in MANIFEST_TYPES:
        return found
    return _Search(layout, platform, remedy).through(found, _NESTING, is_sure=True)


class _Search:
    """A search through the nested indexes of one image, limited to `_DOCUMENTS` of them."""

    def __init__(self, layout: Layout, platform: str, remedy: str) -> None:
        self._layout, self._platform, self._remedy = layout, platform, remedy
        self._left = _DOCUMENTS

    def through(self, found: Descriptor, depth: int, *, is_sure: bool) -> Descriptor:
        """Return the manifest below an index; `is_sure` if nothing else can be the image.

        Raises ImageCorrupt.
        """
        if found.media_type not in INDEX_TYPES:
            raise ImageCorrupt(f"{found.digest} is not an image manifest.")
        if depth == 0:
            raise ImageCorrupt("Its indexes are nested too deeply.")
        self._left -= 1
        if self._left < 0:
            raise ImageCorrupt("Its indexes have too many entries that do not say what they are.")
        what = "The image index"
        document = load_json(self._layout.read_document(found, self._remedy), what)
        fitting = candidates(parse_descriptors(document, "manifests", what), self._platform)
        if not fitting:
            raise ImageCorrupt(f"It has no variant for {self._platform}.")
        *others, last = fitting
        for entry in others:
            with contextlib.suppress(ImageCorrupt):
                return self._into(entry, depth, is_sure=bool(entry.platform))
        return self._into(last, depth, is_sure=(is_sure and not others) or bool(last.platform))

    def _into(self, entry: Descriptor, depth: int, *, is_sure: bool) -> Descriptor:
        if entry.media_type not in MANIFEST_TYPES:
            return self.through(entry, depth - 1, is_sure=is_sure)
        if not is_sure:
            self._left -= 1
            config, _ = parse_manifest(self._layout.read_document(entry, self._remedy))
            parsed = parse_config(self._layout.read_document(config, self._remedy))
            is_image = config.media_type in CONFIG_TYPES and bool(parsed.diff_ids)
            if not (is_image and is_for(self._platform, parsed.os, parsed.architecture)):
                raise ImageCorrupt(f"It has no variant for {self._platform}.")
        return entry


def select(layout: Layout, found: Descriptor, platform: str, what: str, remedy: str) -> Selected:
    """Read and verify manifest and configuration of the variant for `platform`.

    `what` is the image's name in messages and `remedy` the hint when it is damaged. Raises
    ImageCorrupt, and ImageMissing when it is for another platform only.
    """
    try:
        manifest = for_platform(layout, found, platform, remedy)
        document = layout.read_document(manifest, remedy)
        config, layers = parse_manifest(document)
        parsed = parse_config(layout.read_document(config, remedy))
    except ImageCorrupt as error:
        raise ImageCorrupt(f"{what}: {error.message}", hint=error.hint or remedy) from error
    if not is_for(platform, parsed.os, parsed.architecture):
        actual = f"{parsed.os}/{parsed.architecture}"
        raise ImageMissing(
            f"{what} is for {listed([actual])}; this machine runs {platform}.",
            hint="Bring the image for this machine's platform.",
        )
    return Selected(manifest, digest_of(document), config, parsed, layers)


class Form(StrEnum):
    """A way to keep an image in files; the value is the prefix that skopeo uses."""

    LAYOUT = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    DIRECTORY = "dir"


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A place in the host's file system; `name` selects one of several images and may be empty."""

    form: Form
    path: Path
    name: str

    def __str__(self) -> str:
        """Return the source as it is written."""
        return f"{self.form}:{self.path}" + (f":{self.name}" if self.name else "")


def parse_source(text: str) -> LocalSource | None:
    """Parse a local source; None for other text, such as a registry reference.

    The path ends at the first colon, as in skopeo. Raises InvalidArgument when the path is not
    absolute or the text cannot be a path at all.
    """
    prefix, colon, rest = text.partition(":")
    form = Form(prefix) if colon and prefix in {*Form} else None
    if form is None:
        if not text.startswith(("/", "./")):
            return None
        form, rest = Form.LAYOUT, text
    path, _, name = rest.partition(":")
    if not rest.isprintable() or not path.startswith("/"):
        raise InvalidArgument(
            f"{text[:80]!a} does not name a file by its absolute path.",
            hint="Write [oci:|oci-archive:|docker-archive:|dir:]/path[:name].",
        )
    return LocalSource(form, Path(path), name)


def is_local(text: str) -> bool:
    """Return whether a text names files of this host, even malformed: clients may not do that."""
    return text.startswith(("/", "./", "../", "~")) or text.partition(":")[0] in {*Form}
