# SPDX-License-Identifier: Apache-2.0
"""Cut a file into pages that a client accepts. Pure; called by the read_file tool.

A page is text or base64. Text is cut between characters only, so pages joined give the file back,
byte for byte, in both encodings.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
from dataclasses import dataclass
from typing import Literal

from waggle.domain.errors import InvalidArgument
from waggle.mcp.budget import COPY_BUDGET, fit

Encoding = Literal["utf-8", "base64"]
DEFAULT_PAGE_BYTES = 450_000
_MAX_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a file: `content` stands for the bytes from `offset` to `end` of `size`."""

    content: str
    encoding: Encoding
    offset: int
    end: int
    size: int

    @property
    def next_offset(self) -> int | None:
        """Where the next page begins; None when this is the last."""
        return self.end if self.end < self.size else None


def page(
    data: bytes, encoding: Encoding | None, *, offset: int = 0, limit: int | None = None
) -> Page:
    """The page of `data` that begins at `offset`, in the encoding that suits it or the one given.

    `limit` is bytes of the file. Without one the page is as large as every client accepts. An
    offset inside a character moves back to its start. Raises InvalidArgument for an offset beyond
    the end, and for `utf-8` when the file is not text.
    """
    if offset > len(data):
        raise InvalidArgument(
            f"offset is {offset}, but the file has only {len(data)} bytes.",
            hint="Use the next_offset of the previous page.",
        )
    text = None if encoding == "base64" else _text(data)
    if text is None and encoding == "utf-8":
        raise InvalidArgument(
            "The file is not UTF-8 text.", hint="Read it with encoding 'base64' or 'auto'."
        )
    if text is None:
        return _base64_page(data, offset, limit)
    return _text_page(data, offset, limit)


def _text(data: bytes) -> str | None:
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _base64_page(data: bytes, offset: int, limit: int | None) -> Page:
    largest = COPY_BUDGET * 3 // 4
    part = data[offset : offset + (min(DEFAULT_PAGE_BYTES, largest) if limit is None else limit)]
    content = base64.b64encode(part).decode("ascii")
    return Page(content, "base64", offset, offset + len(part), len(data))


def _text_page(data: bytes, offset: int, limit: int | None) -> Page:
    start = _boundary(data, offset)
    length = DEFAULT_PAGE_BYTES if limit is None else max(limit, _MAX_CHARACTER)
    end = _boundary(data, min(start + length, len(data)))
    content = data[start:end].decode("utf-8")
    if limit is None:
        content = fit(content, COPY_BUDGET)
        end = start + len(content.encode("utf-8"))
    return Page(content, "utf-8", start, end, len(data))


def _boundary(data: bytes, offset: int) -> int:
    """`offset`, moved back to the start of the character that it is in."""
    while 0 < offset < len(data) and data[offset] & 0xC0 == 0x80:
        offset -= 1
    return offset


def decode_base64(text: str) -> bytes:
    """The bytes that base64 `text` stands for; white space is ignored. Raises InvalidArgument."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(
            "The content is not valid base64.", hint="Use standard base64 with padding."
        ) from None


def mime_type(path: str, encoding: Encoding) -> str:
    """The likely media type of a file, by its name."""
    guessed, compression = mimetypes.guess_type(path)
    if guessed is not None and compression is None:
        return guessed
    return "text/plain" if encoding == "utf-8" else "application/octet-stream"
