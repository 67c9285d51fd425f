# SPDX-License-Identifier: Apache-2.0
"""Pages of files and of output streams, in sizes that clients accept. Pure.

Called by read_file, read_job, the resources and `waggle cp`. A page of a file is text or base64,
whichever its own bytes allow, so it can be made without the rest of the file. Text ends between
characters. Joined pages give the file, byte for byte. Streams are read by offset or by search.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import Recording
from waggle.mcp.results import COPY_BUDGET, fit

Encoding = Literal["utf-8", "base64"]
DEFAULT_PAGE_BYTES = 450_000
BASE64_PAGE_BYTES = COPY_BUDGET * 3 // 4
TEXT_PAGE = 32_000
"""The most characters of a page for a model."""
SMALLEST_PAGE = 4
"""Bytes; any character fits, so every page makes progress."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a file: `content` represents the bytes from `offset` to `end` of `size`."""

    content: str
    encoding: Encoding
    offset: int
    end: int
    size: int

    @property
    def next_offset(self) -> int | None:
        """The offset of the next page; None if this is the last."""
        return self.end if self.end < self.size else None


def model_window(offset: int, limit: int | None, encoding: Encoding | None) -> int:
    """Return the number of bytes to read for a model's page; at offset 0 it has room for an image.

    Without a limit it is no more than can fit, because bytes that are cut off are read again.
    """
    if limit is not None:
        return max(limit, SMALLEST_PAGE)
    if encoding == "base64":
        return TEXT_PAGE * 3 // 4
    return 4 * TEXT_PAGE if offset else DEFAULT_PAGE_BYTES


def page(
    part: bytes,
    *,
    offset: int,
    size: int,
    encoding: Encoding | None = None,
    whole: bool = False,
    characters: int | None = None,
) -> Page:
    """Return `part` as a page that begins at `offset` of a file of `size` bytes.

    `encoding` None means text if `part` is text, else base64. `whole` keeps all of `part`;
    otherwise the page is cut to the size that every client accepts, and text to `characters`, at
    the end of a line if there is one. Raises InvalidArgument for an offset beyond the end, and for
    `utf-8` if the part is not text.
    """
    if offset > size:
        raise InvalidArgument(
            f"offset is {offset}, but the file has only {size} bytes.",
            hint="Use the next_offset of the previous page.",
        )
    text = None if encoding == "base64" else _text(part, last=offset + len(part) >= size)
    if text is None and encoding == "utf-8":
        raise InvalidArgument(
            "This is not UTF-8 text, or the offset is inside a character.",
            hint="Read it with encoding 'base64' or 'auto'.",
        )
    if text is None:
        kept = part if whole else part[:BASE64_PAGE_BYTES]
        content = base64.b64encode(kept).decode("ascii")
        return Page(content, "base64", offset, offset + len(kept), size)
    content = text if whole else fit(text, COPY_BUDGET)
    if characters is not None and not whole:
        content = _lines(content, characters, more=offset + len(part) < size)
    return Page(content, "utf-8", offset, offset + len(content.encode("utf-8")), size)


def _lines(text: str, characters: int, *, more: bool) -> str:
    """Return a prefix of whole lines if possible, or all if it fits and no `more` follows it."""
    if len(text) <= characters and not more:
        return text
    kept = text[:characters]
    return kept[: kept.rfind("\n") + 1] or kept


def _text(part: bytes, *, last: bool) -> str | None:
    """Decode `part`, without an incomplete last character unless `last`; None if it is not text."""
    if b"\0" in part:
        return None
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        return decoder.decode(part, final=last)
    except UnicodeDecodeError:
        return None


_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")


def decode_base64(text: str) -> bytes:
    """Decode base64 or a data URL; white space is ignored. Raises InvalidArgument."""
    try:
        return _strict_base64(text)
    except ValueError:  # binascii.Error, or text that is not ASCII
        pass
    try:
        return _strict_base64(_DATA_URL.sub("", "".join(text.split()), count=1))
    except ValueError:
        raise InvalidArgument(
            "The content is not valid base64.", hint="Use standard base64 with padding."
        ) from None


def _strict_base64(text: str) -> bytes:
    """Decode ten times as fast as `b64decode(validate=True)`, which runs a regular expression."""
    return binascii.a2b_base64(text, strict_mode=True)


def mime_type(path: str, encoding: Encoding) -> str:
    """Return the likely media type of a file, by its name."""
    guessed, compression = mimetypes.guess_type(path)
    if guessed is not None and compression is None:
        return guessed
    return "text/plain" if encoding == "utf-8" else "application/octet-stream"


DEFAULT_BYTES = 16_000
MAX_BYTES = COPY_BUDGET // 6
"""A byte takes at most six on the wire: `\\ufffd`."""
MAX_PATTERN = 200
MAX_MATCHES = 200
_SHOWN_BYTES = 300
"""The shown part of a line that matches."""
_FOUND_CHARACTERS = 24_000
"""The most characters of all matches together; the last match may exceed it."""
_SCANNED = 8 << 20
"""Bytes that one search scans."""
_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Text from `offset` on; `next_offset` is the offset of the next page, None at the end.

    `size` is the number of bytes written so far; it can grow while the program runs.
    """

    content: str
    offset: int
    next_offset: int | None
    size: int


def read_page(
    stream: Recording, *, offset: int, limit: int | None, search: str | None
) -> StreamPage:
    """Return one page; an offset below 0 counts from the end. Raises InvalidArgument for a gap."""
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
    """Return one page, byte for byte: text, or base64 if it is not text. Else as `read_page`.

    Consecutive pages, joined, give the stream.
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
    """Count the bytes at the start that continue an earlier character: at most 3."""
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
    """Return `data` without an incomplete character at its end; all of it if it is not UTF-8."""
    for cut in range(1, min(4, len(data))):
        lead = data[-cut]
        if lead & 0xC0 == 0xC0:
            width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return data[:-cut] if width > cut else data
        if lead & 0xC0 != 0x80:
            break
    return data


def _search(stream: Recording, begin: int, size: int, text: str) -> StreamPage:
    """Return the lines with `text` and their offsets, up to the limits for matches and bytes.

    Skips bytes that were not kept, and says so in a line.
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
    """Yield whole lines with their offset; a line longer than a piece comes in several blocks."""
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
