# SPDX-License-Identifier: Apache-2.0
"""PAX extended headers: `LENGTH KEY=VALUE` records, times and extended attributes. Pure."""

from __future__ import annotations

import re

from waggle.domain.errors import ImageCorrupt

Records = dict[bytes, bytes]

_XATTR = b"SCHILY.xattr."
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]{0,30}))?")
_SPARSE_LISTS = {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}
SPARSE_MAP = b"GNU.sparse.map"


def parse_records(data: bytes) -> Records:
    """Parse a header's body. Of repeated keys the last counts; an empty value stays empty.

    The repeated offset and numbytes records of sparse format 0.0 are gathered into a map of
    format 0.1. Raises ImageCorrupt.
    """
    records: Records = {}
    pairs: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        digits = data[position:space] if space > position else b""
        end = position + int(digits) if digits.isdigit() else -1
        equals = data.find(b"=", space, end)
        if not (space < equals < end <= len(data)) or data[end - 1 : end] != b"\n":
            raise ImageCorrupt("A layer has a malformed PAX header.")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if key in _SPARSE_LISTS:
            pairs.append(value)
        records[key] = value
        position = end
    if pairs:
        records[SPARSE_MAP] = b",".join(pairs)
    return records


def decimal_ns(text: bytes) -> int:
    """Convert a PAX time in seconds, possibly with a fraction, to nanoseconds."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ImageCorrupt("A layer has a malformed time in a PAX header.")
    fraction = int((match[3] or b"")[:9].ljust(9, b"0"))
    value = int(match[2]) * 1_000_000_000 + fraction
    return -value if match[1] else value


def xattrs_of(records: Records) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes, sorted by name; an empty value means none."""
    named = ((k.removeprefix(_XATTR), v) for k, v in records.items() if k.startswith(_XATTR))
    return tuple(sorted((name, value) for name, value in named if value))
