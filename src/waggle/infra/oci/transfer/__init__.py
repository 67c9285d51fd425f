# SPDX-License-Identifier: Apache-2.0
"""Brings an image from files into the store: `waggle image load`.

Everything is copied into a workspace of the store and verified there; then, under the store's lock,
the blobs are moved to their places and the name is written last. So a damaged source leaves nothing
and a killed process leaves only files that the next `collect` removes. Blocks the thread; no
network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument
from waggle.domain.reference import ImageReference, parse_reference
from waggle.infra.archive import DEFAULT_LIMITS, Limits
from waggle.infra.oci.layers.layers import Advance, Meter, is_layer
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import Descriptor, paired
from waggle.infra.oci.store.layout import Layout
from waggle.infra.oci.store.select import (
    Form,
    LocalSource,
    Selected,
    by_tag,
    name_of,
    parse_source,
    select,
)
from waggle.infra.oci.transfer import archive, docker_archive
from waggle.infra.oci.transfer.archive import BlobDirectory, copy
from waggle.infra.shared.disk_room import storage_errors


@dataclass(frozen=True, slots=True)
class _Found:
    """An image in a layout, and its name there. `own`: its blobs may be moved away."""

    layout: Layout
    entry: Descriptor
    name: str
    own: bool


def load(
    source: str,
    store: ImageStore,
    name: str | None,
    advance: Advance,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """Copy the image at `source` into the store; return its name there, a canonical reference.

    `name` is a reference, or None for the source's own name; an image that had the name loses it.
    Of a multi-platform image, the variant for this machine is taken. `advance` gets the fraction
    done and a text, and may raise to stop. Idempotent. Raises ImageMissing, ImageCorrupt,
    InvalidArgument, ImageUnavailable, DiskFull and TimedOut (another process holds the store's
    lock); the store is then unchanged.
    """
    wanted = parse_reference(name) if name is not None else None
    local = parse_source(source)
    if local is None:
        raise InvalidArgument(
            f"{source[:80]!a} does not name an image in a file.",
            hint="Write oci:/path:tag, oci-archive:/path, docker-archive:/path or dir:/path; images"
            " of registries come with 'waggle image pull'.",
        )
    try:
        with storage_errors(f"{local} cannot be stored"), store.layout.workspace() as workspace:
            found = _open(local, workspace, store.platform, limits, advance)
            reference = wanted or _own_name(found.name)
            _adopt(found, reference, store, workspace, advance)
    except (ImageCorrupt, ImageMissing) as error:
        raise type(error)(f"{local}: {error.message}", hint=error.hint) from error
    return str(reference)


def _own_name(name: str) -> ImageReference:
    try:
        return parse_reference(name)
    except InvalidArgument as error:
        raise InvalidArgument(
            "The image has no name that could be taken over.", hint="Give it one with '--name'."
        ) from error


def _open(
    source: LocalSource, workspace: Path, platform: str, limits: Limits, advance: Advance
) -> _Found:
    if source.form is Form.LAYOUT and not source.path.is_file():
        return _in_layout(Layout(source.path), source.name, platform, own=False)
    if source.form is Form.DIRECTORY:
        return _in_layout(BlobDirectory(source.path), source.name, platform, own=False)
    with archive.opened(source.path) as file:
        meter = Meter(os.fstat(file.fileno()).st_size, f"reading {source.path.name}", advance, 0.9)
        unpacked = workspace / "files"
        unpacked.mkdir()
        only_layout = source.form is Form.OCI_ARCHIVE
        contents = archive.unpack(file, unpacked, limits, meter.count, only_layout=only_layout)
    directory = workspace / "layout"
    is_docker = (b"manifest.json",) in contents.files  # `docker save` often writes both
    if source.form is Form.OCI_ARCHIVE or (source.form is Form.LAYOUT and not is_docker):
        found = archive.as_layout(contents, directory)
        return _in_layout(found, source.name, platform, own=True)
    layout, name = docker_archive.as_layout(
        contents, directory, source.name, limits, lambda _: advance(0.9, "verifying layers")
    )
    return _Found(layout, by_tag(layout, "", "It", platform), name, own=True)


def _in_layout(layout: Layout, tag: str, platform: str, *, own: bool) -> _Found:
    try:
        if not layout.exists:
            raise ImageMissing(f"It is not {layout.kind}.")
        entry = by_tag(layout, tag, "It", platform)
    except OSError as error:
        raise ImageMissing(f"It cannot be read: {error.strerror or error}.") from error
    return _Found(layout, entry, name_of(entry), own)


def _adopt(
    found: _Found, reference: ImageReference, store: ImageStore, workspace: Path, advance: Advance
) -> None:
    """Verify the found image and make it an image of the store."""
    image = select(found.layout, found.entry, store.platform, "The image", "")
    _check(image, reference)
    document = found.layout.read_document(image.manifest)
    blobs = (image.config, *image.layers)
    if found.own:
        for blob in blobs:
            found.layout.open_blob(blob).close()  # checks that it exists with that size
        files = {blob.digest: found.layout.blob_path(blob) for blob in blobs}
    else:
        meter = Meter(sum(blob.size for blob in blobs), "copying", advance, 0.95)
        files = {blob.digest: copy(found.layout, blob, workspace, meter.count) for blob in blobs}
    advance(0.95, f"storing {reference}")
    layout = store.layout
    with layout.locked():
        try:
            for digest, file in files.items():
                layout.put_file(file, digest)
            layout.tag(str(reference), *layout.put_bytes(document), image.manifest.media_type)
        finally:
            layout.collect()
    advance(1.0, f"{reference} is in the store")


def _check(image: Selected, reference: ImageReference) -> None:
    for layer, _ in paired(image.layers, image.parsed.diff_ids):
        if not is_layer(layer):
            raise ImageCorrupt(f"Layer {layer.digest} is not a file system layer.")
    if reference.digest and reference.digest != image.digest:
        raise InvalidArgument(
            f"The image's digest is {image.digest}, not {reference.digest}.",
            hint="Give it a name with a tag, or the name with this digest.",
        )
