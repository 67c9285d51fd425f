# SPDX-License-Identifier: Apache-2.0
"""Images as data: their kind and size by content, and blocks that show them. Pure.

Called by the modules of this package. The guest wrote the bytes. A truncated file does not count as
an image, because models refuse a whole conversation over a broken one. Only headers are read, and
no more of them than a fixed number of bytes or segments.
"""

from __future__ import annotations

import base64
import posixpath
import re
import struct
from typing import Final

from mcp_types import Annotations, ImageContent, ResourceLink

from waggle.mcp.results import readable
from waggle.mcp.results.pages import BASE64_PAGE_BYTES

MAX_IMAGE_BYTES: Final = BASE64_PAGE_BYTES
"""The largest size of one image; larger ones are treated as ordinary files."""
SVG: Final = "image/svg+xml"
_HEAD = 4_096
_END = 64
_SEGMENTS: Final = 500
"""Segments of a JPEG before its size."""
_NO_SIZE: Final = frozenset({0xC4, 0xC8, 0xCC})
"""JPEG markers among those of frames that have no size."""
_TAG = re.compile(rb"<svg[\s/>]")


def image_type(data: bytes) -> str | None:
    """Return the media type of a complete png, jpeg, gif, webp or svg; None for anything else."""
    start, end = data[:16], data[-_END:]
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png" if b"IEND" in end else None
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg" if b"\xff\xd9" in end else None
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif" if end.endswith(b";") else None
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "image/webp" if int.from_bytes(start[4:8], "little") + 8 <= len(data) else None
    return SVG if _is_svg(data) else None


def _is_svg(data: bytes) -> bool:
    """Whether the first element, after declarations and comments, is `svg`, and it is closed."""
    rest = data[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    while rest.startswith((b"<?", b"<!")):
        _, found, rest = rest.partition(b"-->" if rest.startswith(b"<!--") else b">")
        rest = rest.lstrip()
        if not found:
            return False
    return _TAG.match(rest) is not None and data.rstrip().endswith((b"</svg>", b"/>"))


def pixels(data: bytes, kind: str) -> tuple[int, int] | None:
    """Return width and height as the header of an image says; None if it does not."""
    try:
        match kind:
            case "image/png":
                size = struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None
            case "image/gif":
                size = struct.unpack_from("<HH", data, 6)
            case "image/jpeg":
                size = _jpeg(data)
            case "image/webp":
                size = _webp(data)
            case _:
                size = None
    except (struct.error, IndexError):
        return None
    return (size[0], size[1]) if size and size[0] > 0 and size[1] > 0 else None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Find the frame of a JPEG. Raises IndexError or struct.error where it ends before."""
    at = 2
    for _ in range(_SEGMENTS):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        single = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        fill = 1 if marker == 0xFF else 2
        at += fill if single else 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L" if data[20] == 0x2F:
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X" if len(data) >= 30:
            width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
            return width + 1, height + 1
        case _:
            return None


def image_content(data: bytes, kind: str) -> ImageContent:
    """Return the image as a block of a result. Models take no SVG: it is marked for the user."""
    annotations = Annotations(audience=["user"]) if kind == SVG else None
    encoded = base64.b64encode(data).decode("ascii")
    return ImageContent(type="image", data=encoded, mime_type=kind, annotations=annotations)


def file_link(uri: str, path: str, kind: str, size: int) -> ResourceLink:
    """Return a link to a file of `size` bytes, for a client that stores the bytes."""
    name = readable(posixpath.basename(path)) or "file"
    return ResourceLink(type="resource_link", name=name, uri=uri, mime_type=kind, size=size)
