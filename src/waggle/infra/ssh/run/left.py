# SPDX-License-Identifier: Apache-2.0
"""What the kit's launcher says of programs left running (rootfs/kit/guest/left.c). Pure.

It says so at the end of a run's stderr, after a mark that has the run's id in it, and when it is
asked. Programs can imitate the mark, which misleads nobody but their owner; all is bounded.
"""

from __future__ import annotations

import re

from waggle.domain.programs.execution import MAX_COMMAND, NOTHING_LEFT, Left, Program

MAX_LEFT = 64 << 10
"""Bytes of a list; left.c prints no more."""
_LINE = re.compile(r"([0-9a-f-]{36}) ([0-9]{1,7}) (.*)")
_ALL = re.compile(r"all ([0-9]{1,6})")


class Ending:
    """Takes a run's stderr apart: what the program printed, and after the mark, what is left."""

    def __init__(self, run_id: str) -> None:
        self._mark = f"\0waggle-left {run_id}\n".encode()
        self._held: bytes = b""
        self._is_past = False

    def feed(self, data: bytes) -> bytes:
        """The next piece; returns what is certainly the program's."""
        if self._is_past:
            self._held += data[: MAX_LEFT + 1 - len(self._held)]
            return b""
        data = self._held + data
        before, mark, after = data.partition(self._mark)
        if mark:
            self._is_past, self._held = True, after[: MAX_LEFT + 1]
            return before
        at = data.rfind(b"\0", max(0, len(data) - len(self._mark)))
        cut = at if at >= 0 and self._mark.startswith(data[at:]) else len(data)
        self._held = data[cut:]
        return data[:cut]

    def rest(self) -> bytes:
        """At the end: what looked like the beginning of the mark, and was not."""
        rest, self._held = (b"", self._held) if self._is_past else (self._held, b"")
        return rest

    @property
    def left(self) -> Left:
        """What the run has left running."""
        return parse_left(self._held) if self._is_past else NOTHING_LEFT


def parse_left(data: bytes) -> Left:
    """A list of the launcher's; NOTHING_LEFT when it is not one."""
    lines = data[: MAX_LEFT + 1].decode("utf-8", "replace").split("\n")
    if len(data) > MAX_LEFT or len(lines) < 2 or lines[-1]:
        return NOTHING_LEFT
    end = _ALL.fullmatch(lines[-2])
    found = [_LINE.fullmatch(line) for line in lines[:-2]]
    if end is None or None in found or int(end[1]) < len(found):
        return NOTHING_LEFT
    # What has no name was gone when the launcher looked for it.
    programs = tuple(Program(int(m[2]), _cleaned(m[3]), m[1]) for m in found if m and m[3])
    return Left(programs, int(end[1]) - len(found) + len(programs))


def _cleaned(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:MAX_COMMAND])
