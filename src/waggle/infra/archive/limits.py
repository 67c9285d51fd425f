# SPDX-License-Identifier: Apache-2.0
"""How much an image may ask of the host. Exceeding any of it is `ImageCorrupt`, at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one image. Sizes are in bytes; `entries` and `total_bytes` are per image."""

    entries: int = 1_000_000
    """Archive members of all layers together."""
    total_bytes: int = 32 << 30
    """Unpacked bytes of all layers together, archive headers included."""
    file_bytes: int = 16 << 30
    """Size of one file, as it reads: holes count."""
    ratio: int = 200
    """Unpacked over packed bytes, once `ratio_from` bytes are out of one layer."""
    ratio_from: int = 256 << 20
    window: int = 128 << 20
    """What unpacking zstd or xz may look back, which is held in memory for each stream."""
    depth: int = 128
    """Components of a path."""
    path_bytes: int = 4095
    name_bytes: int = 255
    extension_bytes: int = 1 << 20
    """One PAX or GNU extension header, which is held in memory."""
    extensions_bytes: int = 256 << 20
    """All extension headers of one archive together: parsing them takes time, not memory."""
    xattr_bytes: int = 3900
    """All extended attributes of one file as they are stored on the disk."""
    metadata_bytes: int = 256 << 20
    """Names, link targets and attributes of all entries together, which are held in memory."""
    steps: int = 30_000_000
    """Components that are looked up while the layers are merged: links lead to more of them."""


DEFAULT_LIMITS = Limits()
