# SPDX-License-Identifier: Apache-2.0
"""The fields of one 512-byte tar header, decoded and bounded. Pure; used by `tar` only."""

from __future__ import annotations

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.pax import Records


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
    """Refuse a number that no header can mean."""
    if not -(1 << 62) < value < 1 << 62:
        raise ImageCorrupt("A layer has a header with an impossible number.")
    return value


def record_number(records: Records, key: bytes, field: bytes) -> int:
    """Take a number from a PAX record, else from the header field."""
    digits = records.get(key)
    if not digits:
        return number(field)
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 19:
        raise ImageCorrupt(f"A layer has a PAX record with a malformed {key.decode()}.")
    return bounded(int(digits))


def owner(value: int) -> int:
    """Return a user or group id as chown(2) takes it: in 32 bits, so that -2 is 4294967294.

    -1 would change nothing there, so it is root's. Refuses what has more bits.
    """
    if -(1 << 31) <= value < 0:
        value += 1 << 32
    if value == (1 << 32) - 1:
        return 0
    if not 0 <= value < 1 << 32:
        raise ImageCorrupt(f"A layer has an impossible owner: {value}.")
    return value


def device(header: bytes) -> tuple[int, int]:
    """Read a device's major and minor number."""
    major, minor = number(header[329:337]), number(header[337:345])
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise ImageCorrupt(f"A layer has an impossible device number: {major}:{minor}.")
    return major, minor


def text(field: bytes) -> bytes:
    """Cut a text field at its first NUL."""
    return field.split(b"\0", 1)[0]


def name_of(header: bytes) -> bytes:
    """Join the header's prefix and name."""
    name = text(header[0:100])
    end = 476 if header[508:512] == b"tar\0" else 500  # star has times behind a shorter one
    if header[257:263] == b"ustar\0" and (prefix := text(header[345:end])):
        return prefix + b"/" + name
    return name


def verify_checksum(header: bytes) -> None:
    """Refuse a header whose sum, unsigned or signed, is not the one stated."""
    stated = number(header[148:156])
    rest = sum(header[:148]) + sum(header[156:]) + 8 * 0x20
    if stated == rest:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:])
    if stated != signed + 8 * 0x20:
        raise ImageCorrupt("A layer has a tar header with a wrong checksum.")
