# SPDX-License-Identifier: Apache-2.0
"""When images of a layout were used, and what each of them takes. Called by `store` only.

The time of a manifest's file says when its image was brought or an environment was last made from
it: it needs no file of its own, and copies and backups keep it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.decode import algorithm_of
from waggle.infra.oci.store.image import Descriptor
from waggle.infra.oci.store.layout import Layout
from waggle.infra.oci.store.reach import reachable
from waggle.infra.oci.store.select import for_platform


@dataclass(frozen=True, slots=True)
class Holding:
    """What a name keeps. `blobs` are sizes by digest; `digest` is the manifest's, keys the disk."""

    name: str
    digest: str
    blobs: Mapping[str, int]
    used: float
    """Seconds since the epoch."""


def holdings(layout: Layout, platform: str) -> list[Holding]:
    """Tell what each name keeps, damaged images too. Raises ImageCorrupt for the index."""
    held: list[Holding] = []
    for name, entry in sorted(layout.names().items() if layout.exists else ()):
        hexes = reachable(entry, layout.read_document)
        found = {each: _status(layout, each) for each in hexes}
        sizes = {
            f"{algorithm_of(each)}:{each}": status.st_size
            for each, status in found.items()
            if status
        }
        digest = manifest_digest(layout, entry, platform)
        held.append(Holding(name, digest, sizes, last_used(layout, digest)))
    return held


def manifest_digest(layout: Layout, entry: Descriptor, platform: str) -> str:
    """Return the digest of the platform's manifest, or the entry's own when that is damaged."""
    try:
        return for_platform(layout, entry, platform).digest
    except ImageCorrupt:
        return entry.digest


def last_used(layout: Layout, digest: str) -> float:
    """Return seconds since the epoch; 0 when the manifest is gone."""
    status = _status(layout, digest.partition(":")[2])
    return status.st_mtime if status else 0.0


def note_use(layout: Layout, digest: str) -> None:
    """Note a use now. Never fails: a store may be somebody else's to write."""
    with contextlib.suppress(OSError):
        os.utime(_path(layout, digest.partition(":")[2]))


def _path(layout: Layout, hex_: str) -> Path:
    return layout.path / "blobs" / algorithm_of(hex_) / hex_


def _status(layout: Layout, hex_: str) -> os.stat_result | None:
    try:
        return _path(layout, hex_).stat()
    except OSError:
        return None
