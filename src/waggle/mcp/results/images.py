# SPDX-License-Identifier: Apache-2.0
"""Tell an image by its content, never by its name, and make it content that clients show. Pure.

A guest wrote the bytes. What is cut off or only begins like an image is none: clients pass images
on to models, which refuse a whole conversation over a broken one.
"""

from __future__ import annotations

import base64
import posixpath
import re

from mcp_types import Annotations, ImageContent, ResourceLink

from waggle.mcp.results.environments import readable
from waggle.mcp.results.pages import BASE64_PAGE_BYTES, Page, mime_type

MAX_IMAGE_BYTES = BASE64_PAGE_BYTES
"""Of one image; larger ones are files like any other."""
SVG = "image/svg+xml"
_HEAD = 4_096
_END = 64
_TAG = re.compile(rb"<svg[\s/>]")


def image_type(data: bytes) -> str | None:
    """The media type of a whole png, jpeg, gif, webp or svg; None for anything else."""
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
    """Whether its first element is `svg`, after declarations and comments, and it is closed."""
    rest = data[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    while rest.startswith((b"<?", b"<!")):
        _, found, rest = rest.partition(b"-->" if rest.startswith(b"<!--") else b">")
        rest = rest.lstrip()
        if not found:
            return False
    return _TAG.match(rest) is not None and data.rstrip().endswith((b"</svg>", b"/>"))


def image_content(data: bytes, kind: str) -> ImageContent:
    """The image as a block of a result. Models take no SVG, so that is for the person."""
    annotations = Annotations(audience=["user"]) if kind == SVG else None
    encoded = base64.b64encode(data).decode("ascii")
    return ImageContent(type="image", data=encoded, mime_type=kind, annotations=annotations)


def file_link(uri: str, path: str, kind: str, size: int) -> ResourceLink:
    """Where the bytes of a file are, for a client that keeps them; `size` is those."""
    name = readable(posixpath.basename(path)) or "file"
    return ResourceLink(type="resource_link", name=name, uri=uri, mime_type=kind, size=size)


def page_type(path: str, data: bytes, part: Page) -> str:
    """The media type of a page that begins with `data`: by content for images, else by name."""
    whole = part.offset == 0 and len(data) == part.size
    found = image_type(data) if whole else None
    named = mime_type(path, part.encoding)
    if found is None and whole and named.startswith("image/"):
        return "text/plain" if part.encoding == "utf-8" else "application/octet-stream"
    return found or named
