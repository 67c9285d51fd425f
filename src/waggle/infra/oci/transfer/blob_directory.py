# SPDX-License-Identifier: Apache-2.0
"""A directory with one image as skopeo's `dir:` and `podman save --format docker-dir` write it.

`manifest.json` beside files that are named by the digests of what is in them; a manifest that is an
index lists others, as `HEX.manifest.json`. Read as a layout of one image without a name, and only
read. Called by `load` and `store`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from waggle.domain.errors import ImageCorrupt, ImageMissing
from waggle.infra.archive.decode import digest_of
from waggle.infra.oci.store.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    Descriptor,
    load_json,
)
from waggle.infra.oci.store.layout import Layout

_MANIFEST = "manifest.json"


class BlobDirectory(Layout):
    """One such directory."""

    kind = "a directory of an image, with a manifest.json"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._manifest = ""

    @property
    def exists(self) -> bool:
        """Whether it has a manifest."""
        return (self.path / _MANIFEST).is_file()

    def index(self) -> tuple[Descriptor, ...]:
        """Return the one image, or index. Raises ImageMissing, ImageCorrupt and OSError."""
        what = f"{self.path}/{_MANIFEST}"
        if not self.exists:
            raise ImageMissing(f"{self.path} is not {self.kind}.")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(self.path / _MANIFEST, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_DOCUMENT:
                raise ImageCorrupt(f"{what} is not a file, or is too large.")
            data = file.read(MAX_DOCUMENT)
        document = load_json(data, what)
        media = document.get("mediaType")
        if media not in MANIFEST_TYPES | INDEX_TYPES:
            media = DOCKER_INDEX if "manifests" in document else DOCKER_MANIFEST
        self._manifest = digest_of(data)
        return (Descriptor(str(media), self._manifest, len(data)),)

    def blob_path(self, descriptor: Descriptor) -> Path:
        """Return where the blob is, or would be."""
        if descriptor.digest == self._manifest:
            return self.path / _MANIFEST
        names = (descriptor.hex, f"{descriptor.algorithm}-{descriptor.hex}")
        places = [self.path / name for name in (*names, f"{descriptor.hex}.{_MANIFEST}")]
        return next((place for place in places if place.is_file()), places[0])
