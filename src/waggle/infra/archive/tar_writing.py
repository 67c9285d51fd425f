# SPDX-License-Identifier: Apache-2.0
"""The blocks of a tar, entry by entry, without an object for any of them. Pure; used by `archives`.

POSIX ustar headers, with a PAX header before where a name or a link's target does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator

from waggle.domain.files.search import Kind
from waggle.domain.files.tree import TreeEntry

_BLOCK = 512
_PIECE = 1 << 20
_FIELD = 100
_LAST_SECOND = 8**11 - 1
_TYPES = {Kind.FILE: b"0", Kind.LINK: b"2", Kind.DIRECTORY: b"5"}
END = bytes(2 * _BLOCK)
"""What closes the tar."""


def header(name: bytes, entry: TreeEntry) -> bytes:
    """All that comes before the content of an entry, which is called `name`."""
    kind, link = _TYPES[entry.kind], entry.data if entry.kind is Kind.LINK else b""
    if entry.kind is Kind.DIRECTORY:
        name += b"/"
    size = len(entry.data) if entry.kind is Kind.FILE else 0
    return _extended(name, link) + _block(name, entry.mode, size, entry.modified, kind, link)


def content(entry: TreeEntry) -> Iterator[bytes]:
    """A file's bytes in pieces, up to the end of a block; of anything else nothing."""
    if entry.kind is not Kind.FILE:
        return
    for at in range(0, len(entry.data), _PIECE):
        yield entry.data[at : at + _PIECE]
    yield bytes(-len(entry.data) % _BLOCK)


def _extended(name: bytes, link: bytes) -> bytes:
    """The PAX header that a reader needs for these names; often none."""
    keys = {b"path": name, b"linkpath": link}
    given = {key: value for key, value in keys.items() if not _fits(value)}
    if not given:
        return b""
    if not all(map(_is_utf_8, given.values())):
        given = {b"hdrcharset": b"BINARY", **given}
    body = b"".join(_record(key, value) for key, value in given.items())
    return _block(b"././@PaxHeader", 0o644, len(body), 0, b"x", b"") + _filled(body)


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE` and a newline, where the length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)


def _block(name: bytes, mode: int, size: int, modified: int, kind: bytes, link: bytes) -> bytes:
    fields = b"".join(
        (
            name[:_FIELD].ljust(_FIELD, b"\0"),
            b"%07o\0" % (mode & 0o777),
            b"0000000\0" * 2,
            b"%011o\0" % size,
            b"%011o\0" % min(max(modified, 0), _LAST_SECOND),
            b" " * 8,
            kind,
            link[:_FIELD].ljust(_FIELD, b"\0"),
            b"ustar\x0000",
        )
    ).ljust(_BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _fits(value: bytes) -> bool:
    return len(value) <= _FIELD and value.isascii()


def _is_utf_8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _filled(body: bytes) -> bytes:
    return body + bytes(-len(body) % _BLOCK)
