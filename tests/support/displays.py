# SPDX-License-Identifier: Apache-2.0
"""Records of displays, as a guest writes them and its shim stamps them."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any


def framed(raw: bytes, stdout_at: int = 0, stderr_at: int = 0) -> bytes:
    """Return a record with any content."""
    return struct.pack(">IQQ", len(raw), stdout_at, stderr_at) + raw


def record(
    data: Mapping[str, str | bytes], stdout_at: int = 0, stderr_at: int = 0, **more: Any
) -> bytes:
    """Return the record of a display; bytes become base64."""
    plain = {
        mime: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for mime, value in data.items()
    }
    return framed(json.dumps({"data": plain, **more}).encode(), stdout_at, stderr_at)


def png(width: int = 1, height: int = 1, junk: int = 0) -> bytes:
    """Return a PNG that claims a size, with an ignored chunk of `junk` bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    parts = chunk(b"IHDR", head) + chunk(b"junk", b"\0" * junk)
    return (
        b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    )
