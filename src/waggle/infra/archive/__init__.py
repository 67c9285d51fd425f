# SPDX-License-Identifier: Apache-2.0
"""Limits on what an image or an archive may demand of the host, and its names: paths and digests.

Exceeding a limit raises `ImageCorrupt` immediately. Pure; used for entries, hard links and image
definitions. A digest is `ALGORITHM:HEX`, in one of the two algorithms that OCI registers for
images. The image store names its manifests by sha256, whatever an index calls them; configurations
and layers keep the digests that their manifest states.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from waggle.domain.errors import ImageCorrupt

ALGORITHMS: Final = {"sha256": 64, "sha512": 128}
"""The algorithms and how many hexadecimal digits their digests have."""
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Hash(Protocol):
    """A running digest of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Hash more bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""
        ...


_NEW: Final[dict[str, Callable[[], Hash]]] = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


def new_hash(digest: str) -> Hash:
    """Return a new hash for a digest or an algorithm's name; sha256 for an empty text."""
    return _NEW[digest.partition(":")[0] or "sha256"]()


def algorithm_of(hex_: str) -> str:
    """Return the algorithm of a digest's hexadecimal digits, which their number determines."""
    return "sha512" if len(hex_) == ALGORITHMS["sha512"] else "sha256"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of `data`."""
    running = new_hash(algorithm)
    running.update(data)
    return f"{algorithm}:{running.hexdigest()}"


def has_digest(data: bytes, digest: str) -> bool:
    """Return whether `data` has this digest."""
    return digest_of(data, digest.partition(":")[0]) == digest


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one image. Sizes are in bytes; `entries` and `total_bytes` are per image."""

    entries: int = 1_000_000
    """Archive members of all layers together."""
    total_bytes: int = 32 << 30
    """Unpacked bytes of all layers together, archive headers included."""
    file_bytes: int = 16 << 30
    """Size of one file as it is read, holes included."""
    ratio: int = 200
    """Unpacked over packed bytes, checked once a layer has unpacked to `ratio_from` bytes."""
    ratio_from: int = 256 << 20
    window: int = 128 << 20
    """How far zstd or xz may look back; each stream holds this much in memory."""
    depth: int = 128
    """Components of one path."""
    path_bytes: int = 4095
    name_bytes: int = 255
    extension_bytes: int = 1 << 20
    """One PAX or GNU extension header, which is held in memory."""
    extensions_bytes: int = 256 << 20
    """All extension headers of one archive: parsing them takes time, not memory."""
    xattr_bytes: int = 3900
    """All extended attributes of one file, as stored on disk."""
    metadata_bytes: int = 256 << 20
    """Names, link targets and attributes of all entries, which are held in memory."""
    steps: int = 30_000_000
    """Components looked up while layers are merged: symlinks lead to more of them."""


DEFAULT_LIMITS = Limits()


Path = tuple[bytes, ...]


def clean_path(name: bytes, limits: Limits) -> Path:
    """Split an archive's name into components below the root of the tree.

    Leading, doubled and trailing slashes and `.` mean nothing, as in every container engine: an
    absolute name counts from the image's root. Raises ImageCorrupt for `..`, NUL and over-long
    names.
    """
    if b"\0" in name:
        raise ImageCorrupt("A layer has an entry whose name holds a NUL byte.")
    if len(name) > limits.path_bytes:
        raise ImageCorrupt(f"A layer has an entry with a name of {len(name)} bytes.")
    parts = tuple(part for part in name.split(b"/") if part not in {b"", b"."})
    if b".." in parts:
        raise ImageCorrupt(f"A layer has an entry that climbs out with '..': {shown(name)}.")
    if len(parts) > limits.depth:
        raise ImageCorrupt(f"A layer has an entry {len(parts)} directories deep.")
    if any(len(part) > limits.name_bytes for part in parts):
        raise ImageCorrupt("A layer has an entry with a component that is too long.")
    return parts


def listed(names: Iterable[str]) -> str:
    """Format names from an untrusted source for a message: at most 20, printable."""
    safe = [shown(name.encode("utf-8", "surrogatepass"))[1:-1] for name in names]
    return ", ".join(safe[:20]) + (", ..." if len(safe) > 20 else "") or "none"


def shown(name: bytes | Path) -> str:
    """Format a name from an image for a message: printable ASCII, at most 120 characters."""
    joined = name if isinstance(name, bytes) else b"/" + b"/".join(name)
    text = ascii(joined.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 120 else text[:117] + "..."
