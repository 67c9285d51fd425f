# SPDX-License-Identifier: Apache-2.0
"""Writes an image of the store into files: `waggle image save`.

The same image gives the same archive, byte for byte: owner 0, mode 0644, time 0. An archive is
written beside its target and renamed when complete; in a layout directory the name is written last.
A Docker manifest is rewritten with OCI media types; configuration and layers keep their digests,
the manifest does not. Every blob is verified while it is copied. Blocks the thread; knows no
registry.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from waggle.domain.errors import InvalidArgument
from waggle.domain.reference import canonical_name, parse_reference
from waggle.infra.archive import DEFAULT_LIMITS
from waggle.infra.oci.layers.layers import Advance, LayerStream, Meter
from waggle.infra.oci.store import ImageStore, check_name
from waggle.infra.oci.store.image import (
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
    REF_NAME,
    Descriptor,
    distinct,
    paired,
)
from waggle.infra.oci.store.layout import LAYOUT_MARKER, Layout, canonical, manifest_of
from waggle.infra.oci.store.select import Form, LocalSource, Selected, parse_source, select
from waggle.infra.oci.transfer.archive import PIECE, copy, pieces
from waggle.infra.shared.disk_room import storage_errors
from waggle.infra.shared.files import appearing


def as_oci(layout: Layout, image: Selected) -> bytes:
    """Return the image's manifest, rewritten if it is not OCI's. Raises ImageCorrupt."""
    if image.manifest.media_type == MEDIA_MANIFEST:
        return layout.read_document(image.manifest)
    layers = (replace(layer, media_type=_layer_type(layer.media_type)) for layer in image.layers)
    return manifest_of(image.config, layers)


def _layer_type(media_type: str) -> str:
    for suffix in ("gzip", "zstd"):
        if media_type.endswith(suffix):
            return f"{MEDIA_LAYER}+{suffix}"
    return MEDIA_LAYER


_BLOCK = 512
_RECORD = 20 * _BLOCK


class TarWriter:
    """Appends plain files to a tar; the caller calls `finish` and then closes `out`.

    A file's header is written after its content, when the size is known, so `out` must be seekable.
    """

    def __init__(self, out: BinaryIO) -> None:
        """Write to `out` from its present position, which must be 0."""
        self._out = out

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Append a file of at most 8 EiB; `name` has at most 100 ASCII characters."""
        out = self._out
        start = out.tell()
        out.write(bytes(_BLOCK))
        size = 0
        for piece in pieces:
            out.write(piece)
            size += len(piece)
        out.write(bytes(-size % _BLOCK))
        out.seek(start)
        info = tarfile.TarInfo(name)
        info.size = size
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.seek(0, 2)

    def finish(self) -> None:
        """Write the end of the archive."""
        self._out.write(bytes(2 * _BLOCK))
        self._out.write(bytes(-self._out.tell() % _RECORD))


def save(store: ImageStore, name: str, target: str, advance: Advance) -> None:
    """Write the image `name` to `target`: `oci:`, `oci-archive:` or `docker-archive:` and a path.

    A name after the path is the image's name there; without one it keeps its own. An existing
    archive is replaced; an OCI layout gets the image added. `advance` gets the fraction done and a
    text, and may raise to stop. Idempotent. Raises InvalidArgument, ImageMissing, ImageCorrupt,
    ImageUnavailable and DiskFull; the target is then unchanged.
    """
    with storage_errors(f"{target[:200]!a} cannot be written", "the place to save it to"):
        _save(store, name, target, advance)


def _save(store: ImageStore, name: str, target: str, advance: Advance) -> None:
    place = parse_source(target)
    if place is None or place.form is Form.DIRECTORY:
        raise InvalidArgument(
            f"{target[:80]!a} does not name a file that can be written.",
            hint="Write oci:/path:tag, oci-archive:/path or docker-archive:/path.",
        )
    if not place.path.parent.is_dir():
        raise InvalidArgument(f"There is no directory {place.path.parent}.")
    known, entry = store.find(name)
    image = select(store.layout, entry, store.platform, f"Image {known}", "")
    job = _Job(
        store.layout,
        image,
        place,
        place.name or canonical_name(known) or known,
        Meter(sum(layer.size for layer in image.layers), "writing", advance, 0.95),
    )
    if place.form is Form.LAYOUT:
        check_name(job.name)
        _into_layout(job)
    else:
        reference = parse_reference(job.name) if place.form is Form.DOCKER_ARCHIVE else None
        if place.path.exists() and not place.path.is_file():
            raise InvalidArgument(f"{place.path} exists and is not a file.")
        with appearing(place.path) as out:
            writer = TarWriter(out)
            if place.form is Form.OCI_ARCHIVE:
                check_name(job.name)
                _oci(job, writer)
            else:
                _docker(job, writer, [str(reference)] if reference and not reference.digest else [])
            writer.finish()
    advance(1.0, f"{known} is in {place}")


@dataclass(frozen=True, slots=True)
class _Job:
    layout: Layout
    image: Selected
    place: LocalSource
    name: str
    meter: Meter


def _oci(job: _Job, writer: TarWriter) -> None:
    image = job.image
    manifest = as_oci(job.layout, image)
    digest = hashlib.sha256(manifest).hexdigest()
    entry: dict[str, object] = {
        "mediaType": MEDIA_MANIFEST,
        "digest": f"sha256:{digest}",
        "size": len(manifest),
        "annotations": {REF_NAME: job.name},
    }
    index = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [entry]}
    writer.add("oci-layout", [LAYOUT_MARKER])
    writer.add("index.json", [canonical(index)])
    writer.add(f"blobs/sha256/{digest}", [manifest])
    for blob in distinct((image.config, *image.layers)):
        writer.add(f"blobs/{blob.algorithm}/{blob.hex}", pieces(job.layout, blob, job.meter.count))


def _docker(job: _Job, writer: TarWriter, tags: list[str]) -> None:
    image = job.image
    pairs = paired(image.layers, image.parsed.diff_ids)
    names = [f"{diff_id.partition(':')[2]}.tar" for _, diff_id in pairs]
    listed = {"Config": f"{image.config.hex}.json", "RepoTags": tags, "Layers": names}
    writer.add("manifest.json", [canonical([listed])])
    writer.add(f"{image.config.hex}.json", [job.layout.read_document(image.config)])
    for diff_id, layer in {diff_id: layer for layer, diff_id in pairs}.items():
        pieces = _unpacked(job.layout, layer, diff_id, job.meter)
        writer.add(f"{diff_id.partition(':')[2]}.tar", pieces)


def _unpacked(layout: Layout, layer: Descriptor, diff_id: str, meter: Meter) -> Iterator[bytes]:
    with (
        layout.open_blob(layer) as blob,
        LayerStream(blob, layer, diff_id, DEFAULT_LIMITS, meter.count) as stream,
    ):
        buffered = io.BufferedReader(stream, PIECE)
        while data := buffered.read(PIECE):
            yield data
        stream.finish()


def _into_layout(job: _Job) -> None:
    target = Layout(job.place.path)
    existed = target.path.exists()
    is_free = not existed or (target.path.is_dir() and not any(target.path.iterdir()))
    if not is_free and not target.exists:
        raise InvalidArgument(f"{target.path} exists and is not an OCI image layout.")
    image = job.image
    manifest = as_oci(job.layout, image)
    blobs = distinct((image.config, *image.layers))
    try:
        target.path.mkdir(exist_ok=True)
        with target.workspace() as workspace:
            for blob in blobs:
                copy(job.layout, blob, workspace, job.meter.count)
            with target.locked():
                for blob in blobs:
                    target.put_file(workspace / blob.hex, blob.digest)
                target.tag(job.name, *target.put_bytes(manifest))
    except BaseException:
        if not existed:
            shutil.rmtree(target.path, ignore_errors=True)
        raise
