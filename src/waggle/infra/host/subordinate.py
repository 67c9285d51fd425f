# SPDX-License-Identifier: Apache-2.0
"""Which user ids of /etc/subuid are those of machines, too. Used by the preflight checks.

Users run containers with theirs. What `leftovers` finds with a machine's id may be such a process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 1 << 20
_SHOWN: Final = 64


def read_ranges(path: Path = Path("/etc/subuid")) -> str:
    """Return the text of the file; nothing if there is none. Never raises."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def shared_with(ranges: str, ids: range) -> str | None:
    """Return the first line of `ranges` that has some of the `ids`. Pure.

    A line is NAME:FIRST:COUNT; others are skipped.
    """
    for line in ranges.splitlines():
        _, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if not (_is_number(first) and _is_number(count)):
            continue
        if max(int(first), ids.start) < min(int(first) + int(count), ids.stop):
            return "".join(c if c.isprintable() else "?" for c in line)[:_SHOWN]
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
