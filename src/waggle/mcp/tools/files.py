# SPDX-License-Identifier: Apache-2.0
"""Show files and directories: what read_file and list_files answer with. Pure."""

from __future__ import annotations

from mcp_types import BlobResourceContents, CallToolResult, ContentBlock, EmbeddedResource

from waggle.domain.filesystem import FileEntry
from waggle.mcp.budget import COPY_BUDGET, wire_size
from waggle.mcp.file_results import FileContent, FileItem
from waggle.mcp.images import MAX_IMAGE_BYTES, image_content, image_type
from waggle.mcp.pages import Page
from waggle.mcp.resources.uris import file_uri
from waggle.mcp.results import readable, rfc3339, success


def file_result(
    environment_id: str, result: FileContent, data: bytes, part: Page
) -> CallToolResult:
    """The text itself as the first block, then a note where one is needed; images as images.

    The page `part` was made of `data`.
    """
    if part.next_offset is not None:
        note = (
            f"[bytes {part.offset} to {part.end} of {part.size}; "
            f"the next page begins at offset {part.next_offset}]"
        )
    elif part.offset:
        note = f"[bytes {part.offset} to {part.end} of {part.size}; this is the end]"
    else:
        note = "" if part.content else "[the file is empty]"
    picture = _picture(data, part)
    if part.encoding == "utf-8":
        texts = (*([part.content] if part.content else []), *([note] if note else []))
        return success(result, *texts, also=picture)
    about = f"{result.path}: {result.mime_type}, {result.size} bytes, as base64."
    if picture:
        return success(result, about, also=picture)
    uri = file_uri(environment_id, result.path)
    blob = BlobResourceContents(uri=uri, mime_type=result.mime_type, blob=part.content)
    return success(
        result, f"{about} {note}".strip(), also=(EmbeddedResource(type="resource", resource=blob),)
    )


def _picture(data: bytes, part: Page) -> tuple[ContentBlock, ...]:
    """The file as an image, if all of it is here, it is one and there is room for it."""
    kind = image_type(data) if part.offset == 0 and part.next_offset is None else None
    if kind is None or len(data) > MAX_IMAGE_BYTES:
        return ()
    picture = image_content(data, kind)
    copies = 2 if part.encoding == "utf-8" else 1  # base64 is in the structured content only
    fits = copies * wire_size(part.content) + len(picture.data) <= 2 * COPY_BUDGET
    return (picture,) if fits else ()


def file_items(entries: tuple[FileEntry, ...]) -> tuple[list[FileItem], bool]:
    """As many entries as every client accepts, and whether some were left out."""
    items: list[FileItem] = []
    size = 0
    for entry in entries:
        item = FileItem(
            name=readable(entry.name),
            size=entry.size,
            is_dir=entry.is_dir,
            is_link=entry.is_link,
            mode=f"{entry.mode:04o}",
            modified=rfc3339(entry.modified),
        )
        size += wire_size(item.model_dump_json()) + 2
        if size > COPY_BUDGET:
            return items, True
        items.append(item)
    return items, False


def file_line(item: FileItem) -> str:
    """An entry on one line, whatever its name holds."""
    kind = "d" if item.is_dir else "l" if item.is_link else "-"
    name = item.name if item.name.isprintable() else repr(item.name)
    return f"{kind} {item.mode} {item.size:>10} {item.modified} {name}"
