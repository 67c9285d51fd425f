# SPDX-License-Identifier: Apache-2.0
"""Turns the files of a `docker save` archive into an OCI layout.

Called by `load` with the unpacked files. Reads the format of Docker 1.10 and later (also with
`ID/layer.tar` and links to them) and the newer one that is an OCI layout as well: in all of them
manifest.json lists images, configurations and layers. The OCI manifest is made here, so layers are
checked against the configuration's diff_ids, the only digests that every such archive states.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.infra.archive import Limits, listed
from waggle.infra.archive.decode import CountedFile, compression_of
from waggle.infra.oci.layers.layers import LayerStream
from waggle.infra.oci.store.image import (
    MAX_DOCUMENT,
    MAX_LAYERS,
    MEDIA_CONFIG,
    MEDIA_LAYER,
    Descriptor,
    is_unicode,
    paired,
    parse_config,
)
from waggle.infra.oci.store.layout import Layout, manifest_of
from waggle.infra.oci.store.select import same_image
from waggle.infra.oci.transfer.archive import Contents, Unpacked

_INDEX = re.compile(r"@([0-9]{1,4})")
_CONFIG_NAME = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")


@dataclass(frozen=True, slots=True)
class _Listed:
    """One image as manifest.json lists it."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


def as_layout(
    contents: Contents,
    directory: Path,
    name: str,
    limits: Limits,
    advance: Callable[[int], None],
) -> tuple[Layout, str]:
    """Make a layout with the image called `name` in `directory`; return it and the image's name.

    `name` is a reference or `@` and a number; empty for the only image. The returned name is empty
    when the archive gives none. `advance` gets the bytes that are read again because a layer is
    compressed. Raises ImageMissing and ImageCorrupt.
    """
    chosen = _choose(_read_list(contents), name)
    layout = Layout(directory)
    layout.create()
    file = contents.find(chosen.config)
    data = _small(file, chosen.config)
    stated = _CONFIG_NAME.fullmatch(chosen.config)
    if stated and stated[1] != file.hex:
        raise ImageCorrupt(f"Configuration {stated[1]} does not have that digest.")
    diff_ids = parse_config(data).diff_ids
    if len(diff_ids) > MAX_LAYERS:
        raise ImageCorrupt(f"It has {len(diff_ids)} layers; the limit is {MAX_LAYERS}.")
    layers = [
        _layer(contents.find(layer), diff_id, limits, advance)
        for layer, diff_id in paired(chosen.layers, diff_ids)
    ]
    for layer in chosen.layers:
        unpacked = contents.find(layer)
        if unpacked.path.exists():
            layout.put_file(unpacked.path, f"sha256:{unpacked.hex}")
    digest, size = layout.put_bytes(data)
    manifest = manifest_of(Descriptor(MEDIA_CONFIG, digest, size), layers)
    tag = name if name and not _INDEX.fullmatch(name) else next(iter(chosen.tags), "")
    layout.tag(tag or "image", *layout.put_bytes(manifest))
    return layout, tag


def _layer(
    file: Unpacked, diff_id: str, limits: Limits, advance: Callable[[int], None]
) -> Descriptor:
    """Check a layer against its diff id, unpacking it if it is compressed."""
    digest = f"sha256:{file.hex}"
    if digest == diff_id:
        return Descriptor(MEDIA_LAYER, digest, file.size)
    with file.path.open("rb") as blob:
        suffix = compression_of(CountedFile(blob, lambda _: None)).value
        blob.seek(0)
        descriptor = Descriptor(MEDIA_LAYER + suffix, digest, file.size)
        with LayerStream(blob, descriptor, diff_id, limits, advance) as stream:
            stream.finish()
    return descriptor


def _choose(images: Sequence[_Listed], name: str) -> _Listed:
    names = listed(tag for image in images for tag in image.tags)
    if number := _INDEX.fullmatch(name):
        found = [*images[int(number[1]) : int(number[1]) + 1]]
    elif name:
        found = [i for i in images if any(name == tag or same_image(name, tag) for tag in i.tags)]
    else:
        found = [*images]
    if len(found) != 1:
        what = f"an image '{name}'" if name else "exactly one image"
        raise ImageMissing(
            f"It does not hold {what}.",
            hint=f"Add ':NAME', or ':@' and a number from 0. Its names are: {names}.",
        )
    return found[0]


def _read_list(contents: Contents) -> list[_Listed]:
    what = "manifest.json"
    if (b"manifest.json",) not in contents.files:
        raise ImageCorrupt("It is not a docker archive: it has no file manifest.json.")
    try:
        value: object = json.loads(_small(contents.find(what), what))
    except (ValueError, RecursionError) as error:
        raise ImageCorrupt(f"{what} is not JSON.") from error
    if not isinstance(value, list):
        raise ImageCorrupt(f"{what} is not a list.")
    return [_listed(item) for item in cast("list[object]", value)]


def _listed(item: object) -> _Listed:
    fields = cast("dict[str, object]", item) if isinstance(item, dict) else {}
    config = fields.get("Config")
    if not isinstance(config, str) or not is_unicode(config):
        raise ImageCorrupt("manifest.json lists an image without a configuration.")
    return _Listed(config, _texts(fields.get("RepoTags")), _texts(fields.get("Layers")))


def _texts(value: object) -> tuple[str, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    texts = tuple(item for item in items if isinstance(item, str) and is_unicode(item))
    if len(texts) != len(items) or not (value is None or isinstance(value, list)):
        raise ImageCorrupt("manifest.json has something else where a list of texts must be.")
    return texts


def _small(file: Unpacked, name: str) -> bytes:
    if file.size > MAX_DOCUMENT:
        raise ImageCorrupt(f"{name[:80]!a} is over {MAX_DOCUMENT} bytes for a document.")
    return file.path.read_bytes()
