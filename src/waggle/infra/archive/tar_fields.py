# SPDX-License-Identifier: Apache-2.0
"""Decoders of tar header fields, PAX records and the maps of sparse files. Called by `tar` only.

Headers are 512 bytes; PAX records are `LENGTH KEY=VALUE`. Sparse files come in the old GNU form and
three PAX forms: each of their readers returns the file's size and data segments, or None when the
file is not sparse, and `verify` checks them against the stored bytes. Pure, except for the
functions passed in that read more of the stream. Malformed input raises ImageCorrupt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from waggle.domain.errors import ImageCorrupt

Records = dict[bytes, bytes]

_XATTR = b"SCHILY.xattr."
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]{0,30}))?")
_SPARSE_LISTS = {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}
SPARSE_MAP = b"GNU.sparse.map"


def parse_records(data: bytes) -> Records:
    """Parse the body of a PAX header. The last of repeated keys counts; empty values stay empty.

    The repeated offset and numbytes records of sparse format 0.0 are joined into a map of format
    0.1. Raises ImageCorrupt.
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
    """Return the extended attributes, sorted by name; those with empty values are left out."""
    named = ((k.removeprefix(_XATTR), v) for k, v in records.items() if k.startswith(_XATTR))
    return tuple(sorted((name, value) for name, value in named if value))


def number(field: bytes) -> int:
    """Decode a numeric header field: octal text, or base-256 when the top bit is set."""
    if field and field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        if field[0] & 0x40 == 0:
            value = int.from_bytes(bytes((field[0] & 0x3F,)) + field[1:], "big")
        return bounded(value)
    digits = text(field).strip()
    if not digits:
        return 0
    if digits.translate(None, b"01234567"):
        raise ImageCorrupt("A layer has a header with a malformed number.")
    return int(digits, 8)


def bounded(value: int) -> int:
    """Return `value`. Raises ImageCorrupt for a number that no header can mean."""
    if not -(1 << 62) < value < 1 << 62:
        raise ImageCorrupt("A layer has a header with an impossible number.")
    return value


def record_number(records: Records, key: bytes, field: bytes) -> int:
    """Return a number from a PAX record, or else from the header field."""
    digits = records.get(key)
    if not digits:
        return number(field)
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 19:
        raise ImageCorrupt(f"A layer has a PAX record with a malformed {key.decode()}.")
    return bounded(int(digits))


def owner(value: int) -> int:
    """Return a user or group id as chown(2) takes it: in 32 bits, so that -2 is 4294967294.

    -1 would mean "no change" there, so it becomes root. Raises ImageCorrupt for longer numbers.
    """
    if -(1 << 31) <= value < 0:
        value += 1 << 32
    if value == (1 << 32) - 1:
        return 0
    if not 0 <= value < 1 << 32:
        raise ImageCorrupt(f"A layer has an impossible owner: {value}.")
    return value


def device(header: bytes) -> tuple[int, int]:
    """Return a device's major and minor number."""
    major, minor = number(header[329:337]), number(header[337:345])
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise ImageCorrupt(f"A layer has an impossible device number: {major}:{minor}.")
    return major, minor


def text(field: bytes) -> bytes:
    """Cut a text field at the first NUL."""
    return field.split(b"\0", 1)[0]


def name_of(header: bytes) -> bytes:
    """Join the prefix and the name in the header."""
    name = text(header[0:100])
    end = 476 if header[508:512] == b"tar\0" else 500  # star's prefix is shorter; times follow it
    if header[257:263] == b"ustar\0" and (prefix := text(header[345:end])):
        return prefix + b"/" + name
    return name


def verify_checksum(header: bytes) -> None:
    """Raise ImageCorrupt unless the header's sum, unsigned or signed, is the one stated."""
    stated = number(header[148:156])
    rest = sum(header[:148]) + sum(header[156:]) + 8 * 0x20
    if stated == rest:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:])
    if stated != signed + 8 * 0x20:
        raise ImageCorrupt("A layer has a tar header with a wrong checksum.")


Segments = list[tuple[int, int]]
Found = tuple[int, Segments] | None

_BLOCK = 512
_MAX_SEGMENTS = 100_000


def old_gnu(header: bytes, exactly: Callable[[int], bytes]) -> Found:
    """Read the map of a type `S` header and of the extension blocks that follow it."""
    segments = list(_pairs(header[386:482]))
    more = header[482]
    while more:
        block = exactly(_BLOCK)
        segments.extend(_pairs(block[:504]))
        more = block[504]
        _bound(len(segments))
    return number(header[483:495]), segments


def _pairs(area: bytes) -> Iterator[tuple[int, int]]:
    for at in range(0, len(area) - 23, 24):
        if area[at] == 0:
            return
        yield number(area[at : at + 12]), number(area[at + 12 : at + 24])


def pax_body(records: Records, take: Callable[[int], bytes]) -> Found:
    """Read sparse format 1.0: the map is decimal lines at the start of the content."""
    if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")) != (b"1", b"0"):
        return pax_records(records)
    lines = _lines(take)
    count = _decimal(next(lines))
    _bound(count)
    segments = [(_decimal(next(lines)), _decimal(next(lines))) for _ in range(count)]
    return _decimal(records.get(b"GNU.sparse.realsize", b"")), segments


def _lines(take: Callable[[int], bytes]) -> Iterator[bytes]:
    rest = b""
    while True:
        head, separator, tail = rest.partition(b"\n")
        if separator:
            rest = tail
            yield head
        elif len(rest) > _BLOCK:
            raise ImageCorrupt("A layer has a malformed sparse map.")
        else:
            rest += take(_BLOCK)


def pax_records(records: Records) -> Found:
    """Read sparse formats 0.0 and 0.1: the map is in the PAX header."""
    if SPARSE_MAP not in records:
        return None
    fields = records[SPARSE_MAP].split(b",")
    _bound(len(fields) // 2)
    numbers = [_decimal(field) for field in fields]
    segments = list(zip(numbers[::2], numbers[1::2], strict=False))
    size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize", b"")
    return _decimal(size), segments


def verify(size: int, segments: Segments, stored: int) -> None:
    """Raise ImageCorrupt if a map overlaps, leaves the file or contradicts the stored size."""
    position = 0
    for start, length in segments:
        if start < position or length < 0:
            raise ImageCorrupt("A layer has a sparse file with an overlapping map.")
        position = start + length
    if position > size or sum(length for _, length in segments) != stored:
        raise ImageCorrupt("A layer has a sparse file whose map does not fit its data.")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise ImageCorrupt("A layer has a malformed sparse map.")
    return int(text)


def _bound(count: int) -> None:
    if count > _MAX_SEGMENTS:
        raise ImageCorrupt("A layer has a sparse file in too many pieces.")
