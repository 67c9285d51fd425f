# SPDX-License-Identifier: Apache-2.0
"""The results of read_file, list_files and search_files. Pure.

Called by `waggle.mcp.tools`. Search matches are grouped by file in the text for a model, and listed
one by one in structured content.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcp_types import BlobResourceContents, ContentBlock, EmbeddedResource

from waggle.domain.files import FileEntry, Listing
from waggle.domain.files.search import Kind, Match, Searched
from waggle.mcp.results import LIST_BUDGET, Hint, Reply, readable, success, wire_size
from waggle.mcp.results.files import (
    DIRECTORY_MODE,
    FILE_MODE,
    FileContent,
    FileItem,
    FileList,
    SearchMatch,
    SearchResult,
)
from waggle.mcp.results.images import page_type
from waggle.mcp.results.pages import Page
from waggle.mcp.results.pictures import MAX_IMAGE_BYTES, file_link, image_content, image_type
from waggle.mcp.uris import file_uri

MAX_LISTED = 200
_BYTES = "Not text: encoding base64 returns its bytes."
_OTHERS = "search_files finds some by name; execute with language shell can list all."


def file_result(
    environment_id: str, path: str, data: bytes, part: Page, *, as_bytes: bool
) -> Reply:
    """Return a page of a file: text as the first block, an image as an image, else a link.

    The page `part` was made from `data`. `as_bytes` means that the client requested base64.
    """
    uri = file_uri(environment_id, path)
    kind = page_type(path, data, part)
    whole = part.offset == 0 and len(data) == part.size
    shown = image_type(data) if whole and len(data) <= MAX_IMAGE_BYTES else None
    link = file_link(uri, path, kind, part.size)
    about = f"{readable(path)}: {kind}, {part.size} bytes."
    if as_bytes:
        blob = BlobResourceContents(uri=uri, mime_type=kind, blob=part.content)
        also: tuple[ContentBlock, ...] = (EmbeddedResource(type="resource", resource=blob),)
        about_it = {"encoding": "base64", "mime_type": kind, "size": part.size}
        result = _page(part).model_copy(update=about_it)
        return success(result, f"{about} {_place(part)}".rstrip(), also=also)
    picture = (image_content(data, shown), link) if shown else ()
    if part.encoding == "utf-8":
        result = _page(part)
        result.note = "" if part.size else "The file is empty."
        return success(result, part.content, _place(part), also=picture)
    if picture:
        return success(FileContent(), about, also=picture)
    result = FileContent(mime_type=kind, size=part.size, uri=uri, note=_BYTES)
    return success(result, about, also=(link,))


def _page(part: Page) -> FileContent:
    """Return the content of a page, and its position unless it is the whole file."""
    whole = part.offset == 0 and part.next_offset is None
    return FileContent(
        content=part.content,
        size=0 if whole else part.size,
        offset=part.offset,
        next_offset=part.next_offset,
    )


def _place(part: Page) -> str:
    if part.next_offset is None and not part.offset:
        return ""
    after = "this is the end"
    if part.next_offset is not None:
        after = f"the next page begins at offset {part.next_offset}"
    return f"[bytes {part.offset} to {part.end} of {part.size}; {after}]"


def list_result(listing: Listing) -> Reply:
    """Return the first entries of a directory, and the number of entries left out."""
    items = _items(listing.entries)
    more = len(listing.entries) - len(items)
    result = FileList(files=items, count=len(items), more=more)
    hints: list[Hint] = []
    if not items:
        result.note = f"{readable(listing.path)} is empty."
    elif more or listing.truncated:
        least = "at least " if listing.truncated else ""
        result.note = f"Not listed: {least}{max(more, 1)} more entries."
        hints = [Hint(_OTHERS)]
    return success(result, "\n".join(_line(item) for item in items), hints=hints)


def _items(entries: Sequence[FileEntry]) -> list[FileItem]:
    """Return the first entries as models: at most MAX_LISTED, with names within LIST_BUDGET."""
    items: list[FileItem] = []
    room = LIST_BUDGET
    for entry in entries[:MAX_LISTED]:
        plain = "" if entry.is_link else DIRECTORY_MODE if entry.is_dir else FILE_MODE
        mode = f"{entry.mode:04o}"
        item = FileItem(
            name=readable(entry.name),
            size=0 if entry.is_dir or entry.is_link else entry.size,
            is_dir=entry.is_dir,
            is_link=entry.is_link,
            mode="" if mode == plain or entry.is_link else mode,
        )
        room -= wire_size(item.name)
        if room < 0:
            break
        items.append(item)
    return items


def _line(item: FileItem) -> str:
    """Return an entry on one line, with any characters in its name."""
    mark = "@" if item.is_link else "/" if item.is_dir else ""
    name = item.name if item.name.isprintable() else repr(item.name)
    size = "" if mark else f" {item.size}"
    return f"{name}{mark}{size} {item.mode}".rstrip()


MAX_SHOWN = 200
_KINDS = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.LINK: "link", Kind.OTHER: "other"}
_WHY = {
    "results": "max_results was reached: narrow the search or raise it",
    "output": "There is more than fits: narrow the search",
    "entries": "There are too many files: search in a directory below, or exclude more",
    "bytes": "Too much was read: search in a directory below, or with a name",
    "time": "The time was up: search in a directory below, or with a name",
}


def search_result(found: Searched) -> Reply:
    """Return the matches that fit, the number of further ones, and why there may be others."""
    items: list[SearchMatch] = []
    room = LIST_BUDGET
    for match in found.matches[:MAX_SHOWN]:
        item = _item(match)
        room -= sum(map(wire_size, (item.path, item.text, *item.before, *item.after)))
        if room < 0:
            break
        items.append(item)
    more = len(found.matches) - len(items)
    result = SearchResult(
        matches=items,
        count=len(items),
        more=more,
        stopped_by=found.stopped or ("output" if more else ""),
        binary_skipped=found.binary,
        large_skipped=found.large,
        unreadable=found.unreadable,
    )
    result.note = _note(result, _shown(readable(found.path)))
    return success(result, "\n".join(_lines(items)))


def _item(match: Match) -> SearchMatch:
    return SearchMatch(
        path=readable(match.path),
        kind=_KINDS[match.kind],
        line=match.line,
        text=readable(match.text) if match.line else "",
        before=[readable(line) for line in match.before],
        after=[readable(line) for line in match.after],
    )


def _lines(items: list[SearchMatch]) -> list[str]:
    """Return the format of grep and ripgrep: the path once, then its numbered lines."""
    lines: list[str] = []
    last = ""
    for item in items:
        path = _shown(item.path)
        if not item.line:
            mark = {"directory": "/", "link": "@"}.get(item.kind, "")
            lines.append(f"{path}{mark}")
            continue
        if path != last:
            lines.append(f"{path}:")
            last = path
        elif item.before or item.after:
            lines.append("--")
        first = item.line - len(item.before)
        lines += [f"{first + n}- {_shown(text)}" for n, text in enumerate(item.before)]
        lines.append(f"{item.line}: {_shown(item.text)}")
        lines += [f"{item.line + 1 + n}- {_shown(text)}" for n, text in enumerate(item.after)]
    return lines


def _shown(text: str) -> str:
    """Return guest text as one line without control characters."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def _note(result: SearchResult, where: str) -> str:
    """Return a note on no match, more matches, limits and skipped files."""
    skipped = [
        f"{count} {reason}"
        for count, reason in (
            (result.binary_skipped, "binary"),
            (result.large_skipped, "too large"),
            (result.unreadable, "unreadable"),
        )
        if count
    ]
    facts = [
        *([] if result.count else [f"No match in {where}."]),
        *([f"{result.more} more matches are not shown."] if result.more else []),
        *([f"{_WHY[result.stopped_by]}."] if result.stopped_by else []),
        *([f"Not searched: {', '.join(skipped)}."] if skipped else []),
    ]
    return " ".join(facts)
