# SPDX-License-Identifier: Apache-2.0
"""Show what a search found: grouped by file for a model, one by one for a program. Pure."""

from __future__ import annotations

from mcp_types import CallToolResult

from waggle.domain.search import Kind, Match, Searched
from waggle.mcp.budget import wire_size
from waggle.mcp.file_results import SearchMatch, SearchResult
from waggle.mcp.results import readable, success

_BUDGET = 120_000
"""Bytes of JSON for the matches: what a context can use, and far below what clients accept."""
_KINDS = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.LINK: "link", Kind.OTHER: "other"}
_WHY = {
    "results": "max_results was reached: narrow the search or ask for more",
    "output": "there is more than fits: narrow the search",
    "entries": "there are too many files: search in a directory below, or exclude more",
    "bytes": "too much was read: search in a directory below, or with a name",
    "time": "the time was up: search in a directory below, or with a name",
}


def search_result(found: Searched) -> CallToolResult:
    """As many matches as fit, and why there may be more."""
    items: list[SearchMatch] = []
    size, stopped = 0, found.stopped
    for match in found.matches:
        item = _item(match)
        size += wire_size(item.model_dump_json()) + 2
        if size > _BUDGET:
            stopped = "output"
            break
        items.append(item)
    result = SearchResult(
        path=readable(found.path),
        matches=items,
        count=len(items),
        truncated=bool(stopped),
        stopped_by=stopped or None,
        entries_seen=found.entries,
        files_searched=found.files,
        binary_skipped=found.binary,
        large_skipped=found.large,
        unreadable=found.unreadable,
    )
    return success(result, "\n".join([*_lines(items), _note(result)]))


def _item(match: Match) -> SearchMatch:
    return SearchMatch(
        path=readable(match.path),
        kind=_KINDS[match.kind],
        size=match.size,
        line=match.line or None,
        column=match.column or None,
        text=readable(match.text) if match.line else None,
        before=[readable(line) for line in match.before],
        after=[readable(line) for line in match.after],
    )


def _lines(items: list[SearchMatch]) -> list[str]:
    """As grep and ripgrep show it: the path once, then its lines with their numbers."""
    lines: list[str] = []
    last = ""
    for item in items:
        path = _shown(item.path)
        if item.line is None:
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
        lines.append(f"{item.line}: {_shown(item.text or '')}")
        lines += [f"{item.line + 1 + n}- {_shown(text)}" for n, text in enumerate(item.after)]
    return lines


def _shown(text: str) -> str:
    """One line without control characters, whatever the guest wrote."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def _note(result: SearchResult) -> str:
    matches = "1 match" if result.count == 1 else f"{result.count} matches"
    skipped = [
        f"{count} {what}"
        for count, what in (
            (result.binary_skipped, "binary"),
            (result.large_skipped, "too large"),
            (result.unreadable, "unreadable"),
        )
        if count
    ]
    more = f"; {_WHY[result.stopped_by]}" if result.stopped_by else ""
    less = f"; not searched: {', '.join(skipped)}" if skipped else ""
    return f"[{matches} in {_shown(result.path)}{less}{more}]"
