# SPDX-License-Identifier: Apache-2.0
"""Bound the structure of a JSON text before it is parsed. Pure.

`waggle.web`, `waggle.stdio` and the client of guest agents feed `Structure` first: a parser makes
objects as fast as others send brackets, and 31 MiB of `[],` become 1 GiB and block the server for
half a minute. Invalid JSON is counted at least up to where a parser would stop. Knows no messages.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate

PIECE = 64 * 1024
"""Bytes that are scanned at once."""
LONG = PIECE
"""The least bytes of a long string; shorter ones are left to the parser."""

_OTHERS = bytes(set(range(256)) - set(b"[]{},"))
_STEP = bytes({91: 1, 123: 1, 93: 255, 125: 255}.get(byte, 0) for byte in range(256))
"""How each byte changes the depth: by 1, by -1 (as a signed byte), or not at all."""


class StructureRefusedError(ValueError):
    """The text exceeds a bound; the message says which one, to follow "It has"."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most lists and objects, commas, levels, and bytes outside of strings in one text.

    Commas bound the members of lists and objects; the bytes outside of strings bound long numbers,
    whose parsing takes the square of their length.
    """

    containers: int = 200_000
    commas: int = 200_000
    depth: int = 64
    outside: int = 4 * 1024 * 1024


BOUNDS = Bounds()


class Structure:
    """Counts of the text so far, and the places of its long strings."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self._bounds = bounds
        self.containers = 0
        self.commas = 0
        self.deepest = 0
        self.outside = 0
        self.long: list[tuple[int, int]] = []
        """Where each long string begins and ends, without its quotes."""
        self._quotes = 0
        self._depth = 0
        self._at = 0
        self._string: int | None = None
        """Where the string that is still open begins."""
        self._kept = b""
        """A backslash whose next byte has not arrived."""

    def feed(self, data: bytes | bytearray) -> None:
        """Scan the next bytes. Raises StructureRefusedError, after which the object is unusable."""
        for start in range(0, len(data), PIECE):
            self._look(self._kept + data[start : start + PIECE])

    def _look(self, data: bytes) -> None:
        # Escapes are replaced by as many bytes, so that all positions stay.
        plain = data.replace(b"\\\\", b"..").replace(b'\\"', b"..") if b"\\" in data else data
        if plain.endswith(b"\\"):
            plain, self._kept = plain[:-1], b"\\"
        else:
            self._kept = b""
        parts = plain.split(b'"')
        self._quotes += len(parts) - 1
        within = self._string is not None
        self._count(b"".join(parts[1 if within else 0 :: 2]))
        self._follow(parts, within)
        self._at += len(plain)

    def _count(self, outside: bytes) -> None:
        bounds = self._bounds
        self.outside += len(outside)
        signs = outside.translate(None, _OTHERS)
        self.containers += signs.count(b"[") + signs.count(b"{")
        self.commas += signs.count(b",")
        _check(self.containers, bounds.containers, "lists and objects")
        _check(self.commas, bounds.commas, "commas outside of strings")
        _check(self._quotes, 4 * (bounds.commas + 1), "quotes around strings")
        _check(self.outside, bounds.outside, "bytes outside of strings")
        if signs:
            steps = array("b", signs.translate(None, b",").translate(_STEP))
            here = max(accumulate(steps, initial=self._depth))
            self.deepest = max(self.deepest, here)
            self._depth += sum(steps)
            _check(self.deepest, bounds.depth, "levels of lists and objects")
            if self._depth < 0:
                raise StructureRefusedError("more ends than beginnings of lists and objects")

    def _follow(self, parts: list[bytes], within: bool) -> None:
        """Record long strings: only a string that is open at the end of a piece can be long."""
        if self._string is not None and len(parts) > 1:
            end = self._at + len(parts[0])
            if end - self._string >= LONG:
                self.long.append((self._string, end))
        if within == (len(parts) % 2 == 1):  # the piece ends in a string
            if len(parts) > 1:
                self._string = self._at + sum(map(len, parts[:-1])) + len(parts) - 1
        else:
            self._string = None


def _check(found: int, most: int, what: str) -> None:
    if found > most:
        raise StructureRefusedError(f"more than {most:,} {what}")
