# SPDX-License-Identifier: Apache-2.0
"""Show what a search found: grouped by file for a model, one by one for a program. Pure."""

from __future__ import annotations

from mcp_types import CallToolResult

from waggle.domain.files.search import Kind, Match, Searched
from waggle.mcp.results.budget import LIST_BUDGET, wire_size
from waggle.mcp.results.environments import readable, success
from waggle.mcp.results.files import SearchMatch, SearchResult

MAX_SHOWN = 200
_KINDS = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.LINK: "link", Kind.OTHER: "other"}
_WHY = {
    "results": "max_results was reached: narrow the search or ask for more",
    "output": "There is more than fits: narrow the search",
    "entries": "There are too many files: search in a directory below, or exclude more",
    "bytes": "Too much was read: search in a directory below, or with a name",
    "time": "The time was up: search in a directory below, or with a name",
}


def search_result(found: Searched) -> CallToolResult:
    """As many matches as fit, how many more were found, and why there may be others."""
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
    """As grep and ripgrep show it: the path once, then its lines with their numbers."""
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
    """One line without control characters, whatever the guest wrote."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def _note(result: SearchResult, where: str) -> str:
    """What was found, where it is not all told by the matches."""
    skipped = [
        f"{count} {what}"
        for count, what in (
            (result.binary_skipped, "binary"),
            (result.large_skipped, "too large"),
            (result.unreadable, "unreadable"),
        )
        if count
    ]
    told = [
        *([] if result.count else [f"No match in {where}."]),
        *([f"{result.more} more matches are not shown."] if result.more else []),
        *([f"{_WHY[result.stopped_by]}."] if result.stopped_by else []),
        *([f"Not searched: {', '.join(skipped)}."] if skipped else []),
    ]
    return " ".join(told)
