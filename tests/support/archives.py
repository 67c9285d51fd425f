# SPDX-License-Identifier: Apache-2.0
"""Tar archives from entries, given as a name, changes to the TarInfo, and content."""

from __future__ import annotations

import io
import tarfile
from typing import Any

Member = tuple[str, dict[str, Any], bytes]


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for name, changes, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return name, {"type": kind, "linkname": target}, b""


def packed_zeros(size: int, window: int) -> bytes:
    """Return a zstd frame of zeros; `window` is a power of two. Takes 4 bytes for every 128 KiB."""
    block = 128 << 10
    header = b"\x28\xb5\x2f\xfd" + bytes([0, (window.bit_length() - 11) << 3])
    last = size // block - 1
    repeats = ((block << 3 | 1 << 1 | (at == last)).to_bytes(3, "little") for at in range(last + 1))
    return header + b"".join(part + b"\0" for part in repeats)
