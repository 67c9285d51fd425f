# SPDX-License-Identifier: Apache-2.0
"""What a name inside an archive means. Pure; used for entries, hard links and definitions."""

from __future__ import annotations

from collections.abc import Iterable

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.limits import Limits

Path = tuple[bytes, ...]


def clean_path(name: bytes, limits: Limits) -> Path:
    """Split an archive's name into components below the tree's root.

    Leading, doubled and trailing slashes and `.` mean nothing, as in every container engine: an
    absolute name counts from the image's root. `..`, NUL and over-long names are refused.
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
    """Make a list of names from an untrusted source fit for a message: at most 20, printable."""
    safe = [shown(name.encode("utf-8", "surrogatepass"))[1:-1] for name in names]
    return ", ".join(safe[:20]) + (", ..." if len(safe) > 20 else "") or "none"


def shown(name: bytes | Path) -> str:
    """Make a name from an image safe for a message: printable ASCII, at most 120 characters."""
    joined = name if isinstance(name, bytes) else b"/" + b"/".join(name)
    text = ascii(joined.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 120 else text[:117] + "..."
