# SPDX-License-Identifier: Apache-2.0
"""Exact replacement in a text file, and advice when the old text does not match. Pure.

Called by `waggle.service.files`. Time and memory are bounded by the size of a file.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from waggle.domain.errors import FileRefused, InvalidArgument
from waggle.domain.programs.runtime import encoded

_DIFF_CONTEXT = 2
_MAX_DIFF = 8_000
"""Characters."""
_MAX_DIFF_LINES = 1_000
"""Changed lines; a larger change is reported without a diff."""
_MAX_COMPARED = 5_000
"""Lines of the file that are searched for a similar place."""
_MAX_LENGTH = 200
_MAX_RATIOS = 300
_SIMILAR = 0.6
_BARE_LF = re.compile(r"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Edited:
    """A file after its edit. `diff` is unified, without the file's name, and may be cut."""

    data: bytes
    replacements: int
    diff: str


def replace_exactly(data: bytes, old: str, new: str, *, replace_all: bool) -> Edited:
    """Replace the only occurrence of `old`, or all of them.

    In a file whose lines all end in CRLF, the line ends of both texts become CRLF, unless `old` has
    a CR: models see and write LF. Raises InvalidArgument when there is no occurrence, or more than
    one without `replace_all`, and FileRefused for a file that is not UTF-8 text.
    """
    if not old:
        raise InvalidArgument("old_text is empty.", hint="Use write_file for a new file.")
    if old == new:
        raise InvalidArgument(
            "old_text and new_text are the same.", hint="Nothing was changed, nor needs to be."
        )
    text = _text(data)
    if "\r" not in old and "\r\n" in text and not _BARE_LF.search(text):
        old, new = (_BARE_LF.sub("\r\n", part) for part in (old, new))
    places = _places(text, old, 6)
    if not places:
        raise InvalidArgument("old_text is not in the file.", hint=_help(text, old))
    count = text.count(old)
    if len(places) > 1 and not replace_all:
        lines = ", ".join(str(text.count("\n", 0, place) + 1) for place in places[:5])
        raise InvalidArgument(
            f"old_text is in the file {max(count, len(places))} times (lines {lines}"
            f"{', ...' if count > 5 else ''}).",
            hint="Take more of the text around the place, so that it fits only there, or set "
            "replace_all.",
        )
    changed = text.replace(old, new)
    return Edited(encoded(changed, "new_text"), count, _diff(text, changed))


def _text(data: bytes) -> str:
    if b"\0" in data:
        raise FileRefused("The file is not text.", hint="Use write_file, or a program, for it.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileRefused(
            f"The file is not UTF-8 text (byte {error.start}).",
            hint="Use write_file, or a program that knows its encoding.",
        ) from None


def _places(text: str, old: str, most: int) -> list[int]:
    """Return where `old` begins, including overlaps, as these make the place ambiguous."""
    found: list[int] = []
    place = text.find(old)
    while place >= 0 and len(found) < most:
        found.append(place)
        place = text.find(old, place + 1)
    return found


def _help(text: str, old: str) -> str:
    """Return why `old` may be missing, and the text nearest to it."""
    if _BARE_LF.search(old):
        if _BARE_LF.sub("\r\n", old) in text:
            return "These lines end in CRLF, others do not: write \\r\\n for theirs in both texts."
    elif "\r\n" in old and old.replace("\r\n", "\n") in text:
        return "The file's lines end in LF, those of old_text in CRLF: write \\n."
    if old.strip() and old.strip() in text:
        return "Without the white space at its ends it is there: mind indentation and line ends."
    nearest = _nearest(text, old)
    if nearest is None:
        return "Nothing in the file is like it. Read the file again: it may have changed."
    line, shown = nearest
    return f"The nearest text is at line {line}:\n{shown}"


def _nearest(text: str, old: str) -> tuple[int, str] | None:
    """Return the line most like the longest line of `old`, with as many lines as `old` has."""
    wanted = [line.strip() for line in old.splitlines()]
    key = max(wanted, key=len, default="")[:_MAX_LENGTH]
    if not key:
        return None
    lines = text.splitlines()
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(key)
    best, best_line, ratios = _SIMILAR, -1, 0
    for number, line in enumerate(lines[:_MAX_COMPARED]):
        matcher.set_seq1(line.strip()[:_MAX_LENGTH])
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best:
            if (ratios := ratios + 1) > _MAX_RATIOS:
                break
            ratio = matcher.ratio()
            if ratio > best:
                best, best_line = ratio, number
    if best_line < 0:
        return None
    start = max(0, best_line - wanted.index(max(wanted, key=len)))
    shown = [line[:200] for line in lines[start : start + min(len(wanted), 8)]]
    return start + 1, "\n".join(shown)


def _diff(before: str, after: str) -> str:
    """Return the change as a unified diff; equal lines at both ends are set aside first."""
    old, new = before.splitlines(), after.splitlines()
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    start, stop = max(0, head - _DIFF_CONTEXT), max(0, tail - _DIFF_CONTEXT)
    old_part, new_part = old[start : len(old) - stop], new[start : len(new) - stop]
    if len(old_part) + len(new_part) > _MAX_DIFF_LINES:
        return f"[the change spans {len(old_part)} lines, too many to show]"
    lines = list(difflib.unified_diff(old_part, new_part, n=_DIFF_CONTEXT, lineterm=""))[2:]
    shown = "\n".join(_moved(line, start) for line in lines)
    return shown if len(shown) <= _MAX_DIFF else f"{shown[:_MAX_DIFF]}\n[...]"


def _moved(line: str, start: int) -> str:
    """Return a hunk's head with line numbers that count from the file's beginning."""
    if not line.startswith("@@ -"):
        return line[:400]
    old, new = line.split(" ")[1:3]
    return f"@@ {_shifted(old, start)} {_shifted(new, start)} @@"


def _shifted(span: str, start: int) -> str:
    first, comma, count = span[1:].partition(",")
    return f"{span[0]}{int(first) + start}{comma}{count}"
