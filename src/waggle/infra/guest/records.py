# SPDX-License-Identifier: Apache-2.0
"""Records as the kit reads them (kit/guest/identity.c). Pure.

u32 name length, u32 data length, little endian, then name and data; two zeros end the list.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<II")
MAX_NAME = 63
MAX_DATA = 8 << 20
END = _HEADER.pack(0, 0)


def record(name: str, data: bytes) -> bytes:
    """One record. Raises ValueError when it is too long."""
    raw = name.encode()
    if not 0 < len(raw) <= MAX_NAME or len(data) > MAX_DATA:
        raise ValueError(f"the record {name!r} is too long")
    return _HEADER.pack(len(raw), len(data)) + raw + data
