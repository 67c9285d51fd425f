# SPDX-License-Identifier: Apache-2.0
"""What a program printed, as a terminal would show it, for models: no colours, no floods. Pure.

A line that was rewritten is its last state, and lines that repeat are shown once with a count. Used
by `waggle.mcp` for texts that a model reads; resources and pages of output stay exact.
Nothing here makes a text longer, and the work grows with its length alone.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from waggle.domain.programs import Output

REACH: Final = 64
"""Lines from the end that the cursor can go back to, as on a screen."""
MOST: Final = 3
"""How often lines are shown that are the same in a row."""
_PERIODS: Final = (1, 2)
"""Lines that repeat together; a warning of Python is two, with its source."""

_CONTINUED: Final = re.compile(rb"[\x80-\xbf]{0,3}")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]{0,40}m")
_MOVES: Final = re.compile(r"[\x07\x08\x0e\x0f\r\x1b]")
_TOKEN: Final = re.compile(
    r"(?P<text>[^\x07\x08\x0e\x0f\n\r\x1b]+)"
    r"|\x1b\[(?P<number>[0-9;:<=>?]{0,40})[ -/]{0,4}(?P<command>[@-~])"
    r"|\x1b[\]PX^_][^\x07\x1b\n]{0,4000}(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]{1,4}[0-~]|\x1b[0-Z\\^-~]|\x1b\[?[0-9;:<=>?]{0,40}"
    r"|(?P<sign>[\x07\x08\x0e\x0f\n\r])"
)


def cleaned(text: str) -> str:
    """Return the text as it is shown in the end. It is never longer."""
    plain = _COLOUR.sub("", text)
    return _counted(_Screen().shown(plain) if _MOVES.search(plain) else plain)


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    lines = cleaned(text).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@dataclass(frozen=True, slots=True)
class Insert:
    """Lines that belong between what a stream had printed at an offset and what follows."""

    at: int
    text: str


def printed(output: Output, inserts: Sequence[Insert] = ()) -> str:
    """Return a stream as `Output.text` does, cleaned, with `inserts` in their order.

    The offsets only grow; those in the part that was cut are shown there.
    """
    if not output.dropped:
        return _section(0, output.head + output.tail, inserts, ended=True)
    kept, resumed = len(output.head), output.total - len(output.tail)
    before = [insert for insert in inserts if insert.at <= kept]
    after = [insert for insert in inserts[len(before) :] if insert.at >= resumed]
    between = inserts[len(before) : len(inserts) - len(after)]
    mark = f"\n[... {output.dropped} of {output.total} bytes cut ...]\n"
    split = _CONTINUED.match(output.tail)
    lost = split.end() if split else 0
    return "".join(
        (
            _section(0, output.head, before, ended=False),
            mark,
            _section(0, b"", between, ended=True),
            _section(resumed + lost, output.tail[lost:], after, ended=True),
        )
    )


def _section(start: int, data: bytes, inserts: Sequence[Insert], *, ended: bool) -> str:
    """Return bytes from `start` on; without a character that is cut at the end unless `ended`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown, at = "", 0
    for insert in inserts:
        end = min(max(at, insert.at - start), len(data))
        shown += cleaned(decoder.decode(data[at:end]))
        lines = insert.text.strip("\n")
        shown += f"{'' if shown.endswith(chr(10)) or not shown else chr(10)}{lines}\n"
        at = end
    return shown + cleaned(decoder.decode(data[at:], ended))


class _Screen:
    """Lines and a cursor. Lines out of reach are finished, so that all work is at the end."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._rows: list[list[str]] = [[]]
        self._rewritten = [False]
        self._row = 0
        self._column = 0

    def shown(self, text: str) -> str:
        """Print a text and return all lines."""
        for found in _TOKEN.finditer(text):
            match found.lastgroup:
                case "text":
                    self._write(found[0])
                case "sign":
                    self._sign(found[0])
                case "command":
                    self._move(found["command"], found["number"])
                case _:
                    pass
        self._finish(len(self._rows))
        return "\n".join(self._finished)

    def _write(self, text: str) -> None:
        row, end = self._rows[self._row], self._column + len(text)
        if self._column < len(row):
            self._rewritten[self._row] = True
        row[self._column : end] = text
        self._column = end

    def _sign(self, sign: str) -> None:
        match sign:
            case "\r":
                self._column = 0
            case "\b":
                self._column = max(0, self._column - 1)
            case "\n":
                self._column = 0
                self._row += 1
                if self._row == len(self._rows):
                    self._rows.append([])
                    self._rewritten.append(False)
                    self._finish(len(self._rows) - REACH)
            case _:
                pass

    def _move(self, command: str, number: str) -> None:
        """Follow the sequences of progress bars; all others only change how text looks."""
        count = max(1, int(number)) if number.isdecimal() and len(number) <= 4 else 1
        row = self._rows[self._row]
        match command:
            case "A" | "F":
                self._row = max(0, self._row - count)
            case "B" | "E":
                self._row = min(len(self._rows) - 1, self._row + count)
            case "C":
                self._column += count
            case "D":
                self._column -= count
            case "G":
                self._column = count - 1
            case "K":
                self._erase(row, number)
            case "J" if number in ("", "0"):
                self._erase(row, "0")
                del self._rows[self._row + 1 :], self._rewritten[self._row + 1 :]
            case _:
                pass
        if command in "EF":
            self._column = 0
        # The cursor stays in the text, since spaces up to it would make the text longer.
        self._column = max(0, min(self._column, len(self._rows[self._row])))

    def _erase(self, row: list[str], how: str) -> None:
        self._rewritten[self._row] = True
        if how != "1":
            del row[0 if how == "2" else self._column :]

    def _finish(self, count: int) -> None:
        """Move lines out of reach of the cursor; padding is removed from those rewritten."""
        for _ in range(max(0, count)):
            line = "".join(self._rows.pop(0))
            self._finished.append(line.rstrip() if self._rewritten.pop(0) else line)
            self._row = max(0, self._row - 1)


def _counted(text: str) -> str:
    """Return the text with lines that repeat more than MOST times shown once, with a count."""
    lines = text.split("\n")
    return text if len(lines) <= MOST + 1 else "\n".join(_once(lines))


def _once(lines: list[str]) -> Iterator[str]:
    """Yield the lines; the last one may be empty, after the end of the last line."""
    at, last = 0, len(lines) - (not lines[-1])
    while at < last:
        width = next((width for width in _PERIODS if _repeats(lines, at, last, width)), 0)
        times = _times(lines, at, last, width) if width else 0
        block = lines[at : at + width]
        what = "line above was" if width == 1 else f"{width} lines above were"
        count = f"[the {what} printed {times} times]"
        if times > MOST and len(count) < (times - 1) * (sum(map(len, block)) + width):
            yield from (*block, count)
            at += width * times
        else:
            yield lines[at]
            at += 1
    yield from lines[last:]


def _repeats(lines: list[str], at: int, last: int, width: int) -> bool:
    """Whether a line is there again where it must be if `width` lines repeat too often."""
    end = at + width * MOST
    return end + width <= last and lines[at] == lines[end] and lines[at] == lines[at + width]


def _times(lines: list[str], at: int, last: int, width: int) -> int:
    """Return how often the `width` lines at a place follow each other there."""
    end = at + width
    while end < last and lines[end] == lines[end - width]:
        end += 1
    return (end - at) // width
