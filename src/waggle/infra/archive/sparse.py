# SPDX-License-Identifier: Apache-2.0
"""Sparse files in tar archives: the old GNU form and the three PAX forms. Pure but for `take`.

Called by `tar` only. Each reader returns the file's size and its data segments, or None when the
file is not sparse; `verify` then holds the map against what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.pax import SPARSE_MAP, Records

Segments = list[tuple[int, int]]
Found = tuple[int, Segments] | None

_BLOCK = 512
_MAX_SEGMENTS = 100_000


def old_gnu(
    header: bytes, number: Callable[[bytes], int], exactly: Callable[[int], bytes]
) -> Found:
    """Read the map of a type `S` header and of the extension blocks that follow it."""
    segments = list(_pairs(header[386:482], number))
    more = header[482]
    while more:
        block = exactly(_BLOCK)
        segments.extend(_pairs(block[:504], number))
        more = block[504]
        _bound(len(segments))
    return number(header[483:495]), segments


def _pairs(area: bytes, number: Callable[[bytes], int]) -> Iterator[tuple[int, int]]:
    for at in range(0, len(area) - 23, 24):
        if area[at] == 0:
            return
        yield number(area[at : at + 12]), number(area[at + 12 : at + 24])


def pax_body(records: Records, take: Callable[[int], bytes]) -> Found:
    """Read format 1.0: the map is decimal lines at the start of the content."""
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
    """Read formats 0.0 and 0.1: the map is in the PAX header."""
    if SPARSE_MAP not in records:
        return None
    fields = records[SPARSE_MAP].split(b",")
    _bound(len(fields) // 2)
    numbers = [_decimal(field) for field in fields]
    segments = list(zip(numbers[::2], numbers[1::2], strict=False))
    size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize", b"")
    return _decimal(size), segments


def verify(size: int, segments: Segments, stored: int) -> None:
    """Refuse a map that overlaps, leaves the file or disagrees with the stored bytes."""
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
