# SPDX-License-Identifier: Apache-2.0
"""A page of an output stream, by offset or by search. Called by read_job and the resources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from waggle.domain.errors import InvalidArgument
from waggle.mcp.results.budget import COPY_BUDGET
from waggle.mcp.results.pages import DEFAULT_PAGE_BYTES, Page, page
from waggle.service.programs.job import Recording

DEFAULT_BYTES = 16_000
MAX_BYTES = COPY_BUDGET // 6
"""Each byte takes at most six on the wire: `\\ufffd`."""
MAX_PATTERN = 200
MAX_MATCHES = 200
_SHOWN_BYTES = 300
"""Of a line that was found."""
_FOUND_CHARACTERS = 24_000
"""Of all matches together; the last one may go over it."""
_SCANNED = 8 << 20
"""Bytes that one search looks through."""
_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Text from `offset` on; `next_offset` is where the next page begins, None at the end.

    `size` is bytes written so far; while the program runs there may be more later.
    """

    content: str
    offset: int
    next_offset: int | None
    size: int


def read_page(
    stream: Recording, *, offset: int, limit: int | None, search: str | None
) -> StreamPage:
    """One page. An offset below 0 counts from the end. Raises InvalidArgument for a gap."""
    size = stream.total
    begin = _begin(size, offset)
    if search is not None:
        return _search(stream, begin, size, search)
    data = _read(stream, begin, limit or DEFAULT_BYTES)
    if begin + len(data) < size:
        data = _whole_characters(data)
    end = begin + len(data)
    return StreamPage(data.decode("utf-8", "replace"), begin, end if end < size else None, size)


def exact_page(stream: Recording, *, offset: int, length: int | None) -> Page:
    """One page, byte for byte: text, or base64 where it is not text. Otherwise as `read_page`.

    Pages that are read one after the other, joined, give the stream.
    """
    size = stream.total
    begin = _begin(size, offset)
    data = _read(stream, begin, min(length or DEFAULT_PAGE_BYTES, DEFAULT_PAGE_BYTES))
    if offset < 0:
        inside = _continuation(data)
        begin, data = begin + inside, data[inside:]
    part = page(_whole_characters(data), offset=begin, size=size)
    if part.end == begin and data:
        return page(data, offset=begin, size=size, encoding="base64")
    return part


def _begin(size: int, offset: int) -> int:
    return max(0, size + offset) if offset < 0 else min(offset, size)


def _continuation(data: bytes) -> int:
    """How many bytes at the start continue a character that began earlier: at most 3."""
    return next((at for at, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80), len(data[:3]))


def _read(stream: Recording, offset: int, length: int) -> bytes:
    try:
        return stream.read(offset, length)
    except ValueError as error:
        raise InvalidArgument(
            f"Not all of this stream is kept: {error}.",
            hint="Read from the start, or from the end with an offset below 0.",
        ) from error


def _whole_characters(data: bytes) -> bytes:
    """`data` without a character at its end that is cut in two; all of it if it is not UTF-8."""
    for cut in range(1, min(4, len(data))):
        lead = data[-cut]
        if lead & 0xC0 == 0xC0:
            width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return data[:-cut] if width > cut else data
        if lead & 0xC0 != 0x80:
            break
    return data


def _search(stream: Recording, begin: int, size: int, text: str) -> StreamPage:
    """Lines with `text`, each after its offset; stops after enough of them or enough bytes.

    It goes on behind what was not kept, and tells that.
    """
    wanted = text.encode("utf-8", "replace")
    found: list[str] = []
    room, scanned, end = _FOUND_CHARACTERS, 0, begin
    for at, block in _blocks(stream, begin, size):
        if scanned > _SCANNED:
            return StreamPage("\n".join(found), begin, at, size)
        if at > end:
            found.append(f"[bytes {end} to {at} were not kept]")
        scanned, end = scanned + len(block), at + len(block)
        for offset, line in _numbered_lines(at, block) if wanted in block else ():
            if room <= 0 or len(found) >= MAX_MATCHES:
                return StreamPage("\n".join(found), begin, offset, size)
            if wanted in line:
                found.append(f"{offset}: {_shown(line)}")
                room -= len(found[-1])
    return StreamPage("\n".join(found), begin, None, size)


def _blocks(stream: Recording, begin: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their offset; a line longer than a piece comes in several."""
    at, rest = begin, b""
    while at + len(rest) < size:
        reached = at + len(rest)
        if stream.kept <= reached < stream.tail:
            if rest:
                yield at, rest
            at, rest = stream.tail, b""
            continue
        data = rest + _read(stream, reached, _PIECE)
        if len(data) == len(rest):
            break
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > _PIECE:
            cut = len(data)
        if cut:
            yield at, data[:cut]
        at, rest = at + cut, data[cut:]
    if rest:
        yield at, rest


def _numbered_lines(at: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    for line in block.removesuffix(b"\n").split(b"\n"):
        yield at, line
        at += len(line) + 1


def _shown(line: bytes) -> str:
    cut = " [...]" if len(line) > _SHOWN_BYTES else ""
    return line[:_SHOWN_BYTES].decode("utf-8", "replace") + cut
