# SPDX-License-Identifier: Apache-2.0
"""The displays of a job: its rich outputs, read from the records that the guest wrote. Pure.

A record is `u32 length | u64 stdout offset | u64 stderr offset | JSON`, big-endian; the length is
that of the JSON, `{"data": {mime: text}, "metadata": {}, "chart": {}}`, with images and PDF as
base64. `waggle.service.programs` keeps the stream and `waggle.mcp` shows the displays. The guest
controls every byte: what is wrong or too much is left out and counted, nothing raises.
"""

from __future__ import annotations

import binascii
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, NoReturn, cast

from waggle.domain.programs import Recording

MAX_STREAM_BYTES: Final = 16 << 20
"""Bytes of a job's stream that are read; later records are counted only as one that is cut."""
MAX_RECORD_BYTES: Final = 8 << 20
MAX_RECORDS: Final = 1_000
"""Records that are read; further ones are only counted."""
MAX_COUNTED: Final = 10_000
"""Records that are looked at in all."""
MAX_REPRESENTATIONS: Final = 20
MAX_DEPTH: Final = 32
"""Levels of lists and objects in a record, and in a representation that is JSON."""
MAX_MEMBERS: Final = 200_000
"""Lists, objects and commas in the JSON of one stream, with that inside of representations."""
MAX_PLAIN: Final = 4 << 20
"""Bytes outside of strings in the same."""
BINARY: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
"""The media types whose values are base64; all others are text."""

_HEAD: Final = struct.Struct(">IQQ")
_MIME: Final = re.compile(r"[a-z0-9][a-z0-9._+-]{0,62}/[a-z0-9][a-z0-9._+-]{0,126}")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_SIGNS: Final = bytes(set(range(256)) - set(b"[]{},"))
_STEPS: Final = {91: 1, 123: 1, 93: -1, 125: -1}


@dataclass(frozen=True, slots=True)
class Display:
    """One rich output: the same thing in several representations, by their media type.

    `index` is the number of its record, from 1. The offsets are the bytes that the program had
    printed before; the guest claims them. `chart` describes what a picture draws.
    """

    index: int
    stdout_at: int
    stderr_at: int
    data: Mapping[str, str | bytes]
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    chart: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Displays:
    """The displays of a job in order, and the number of records that could not be used."""

    items: tuple[Display, ...] = ()
    dropped: int = 0

    def read(self) -> Displays:
        """Return these; see `DisplayRecords`."""
        return self


NO_DISPLAYS: Final = Displays()
Read = Callable[[int, int], bytes]
"""Returns at most so many bytes from an offset of the stream; fewer where it ends."""


@dataclass(frozen=True, slots=True)
class DisplayRecords:
    """The records of a job as they are at one time. To read them takes a while: up to 0.1 s.

    `is_whole` means that no more bytes come, so that a record that is cut is lost.
    """

    data: bytes
    is_whole: bool = True

    def read(self) -> Displays:
        """Return all displays."""
        return parse_displays(self._slice, len(self.data), whole=self.is_whole)

    def one(self, index: int) -> Display | None:
        """Return one display by its number, without parsing the others."""
        records = _records(self._slice, len(self.data))
        found = next((record for record in records if record.index == index), None)
        return found and found.display(_Budget())

    def _slice(self, at: int, length: int) -> bytes:
        return self.data[at : at + length]


def records_of(recording: Recording, *, ended: bool) -> DisplayRecords:
    """Return the records of a stream; a last one that may still grow is not yet `dropped`."""
    size = min(recording.kept, MAX_STREAM_BYTES)
    data = recording.read(0, size) if size else b""
    return DisplayRecords(data, ended or size < recording.total)


def parse_displays(read: Read, size: int, *, whole: bool = True) -> Displays:
    """Return the displays in the first `size` bytes of a stream.

    `whole` means that no more bytes come, so that a record that is cut is lost.
    """
    items: list[Display] = []
    budget, dropped = _Budget(), 0
    for record in _records(read, size):
        if record.is_cut:
            dropped += whole
        elif display := record.display(budget):
            items.append(display)
        else:
            dropped += 1
    return Displays(tuple(items), dropped)


@dataclass(frozen=True, slots=True)
class _Record:
    """The place of a record's JSON in the stream, not yet read."""

    read: Read
    index: int
    head: tuple[int, int, int]
    at: int
    is_cut: bool = False

    def display(self, budget: _Budget) -> Display | None:
        """Return the display, or None for a record that is cut, too large or wrong."""
        length, stdout_at, stderr_at = self.head
        if self.is_cut or self.index > MAX_RECORDS or not 2 <= length <= MAX_RECORD_BYTES:
            return None
        fields = _object(self.read(self.at, length), budget)
        given = fields and fields.get("data")
        if fields is None or not isinstance(given, dict):
            return None
        data = _bundle(cast("dict[str, object]", given), budget)
        if not data:
            return None
        metadata, chart = fields.get("metadata"), fields.get("chart")
        return Display(
            self.index,
            stdout_at,
            stderr_at,
            data,
            cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {},
            cast("dict[str, Any]", chart) if isinstance(chart, dict) else None,
        )


def _records(read: Read, size: int) -> Iterator[_Record]:
    """Yield the records from the start; the last one may be cut, or not all of them counted."""
    at = 0
    for index in range(1, MAX_COUNTED + 1):
        if at >= size:
            return
        raw = read(at, min(_HEAD.size, size - at))
        if len(raw) < _HEAD.size:
            yield _Record(read, index, (0, 0, 0), at, is_cut=True)
            return
        head: tuple[int, int, int] = _HEAD.unpack(raw)
        end = at + _HEAD.size + head[0]
        yield _Record(read, index, head, at + _HEAD.size, is_cut=end > size)
        at = end


@dataclass(slots=True)
class _Budget:
    """What is left for the JSON of one stream: a parser makes objects as fast as brackets come."""

    members: int = MAX_MEMBERS
    plain: int = MAX_PLAIN

    def takes(self, raw: bytes) -> bool:
        """Whether the structure of a JSON text is within the bounds; what it has is taken away."""
        text = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
        if text.count(b'"') > 4 * (self.members + 1):
            return False
        outside = b"".join(text.split(b'"')[::2])
        signs = outside.translate(None, _SIGNS)
        self.members -= len(signs)
        self.plain -= len(outside)
        if self.members < 0 or self.plain < 0:
            return False
        return max(accumulate((_STEPS.get(sign, 0) for sign in signs), initial=0)) <= MAX_DEPTH


def _object(raw: bytes, budget: _Budget) -> dict[str, Any] | None:
    """Return a record's object; without what has numbers that are not JSON, such as NaN."""
    try:
        value = _parsed(raw, budget)
    except _NotFiniteError:
        value = _without_numbers(raw)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _parsed(raw: bytes, budget: _Budget) -> Any:
    """Return the value of a JSON text, None if it is not one. Raises _NotFiniteError."""
    if not budget.takes(raw):
        return None
    try:
        value: Any = json.loads(raw.decode(), parse_constant=_refuse, parse_float=_finite)
    except _NotFiniteError:
        raise
    except (ValueError, RecursionError):
        return None
    return _readable(value) if _SURROGATE.search(raw) else value


def _without_numbers(raw: bytes) -> Any:
    """Return the data alone, which is text: metadata and chart have a number that is refused."""
    try:
        value: Any = json.loads(raw.decode(), parse_constant=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    data = cast("dict[str, Any]", value).get("data") if isinstance(value, dict) else None
    return {"data": _readable(data)}


class _NotFiniteError(ValueError):
    """A number is not finite, which JSON does not have and no client reads."""


def _refuse(_name: str) -> NoReturn:
    raise _NotFiniteError


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotFiniteError
    return number


def _readable(value: Any) -> Any:
    """Return a JSON value with lone surrogates replaced, which no message can carry."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_readable(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {_readable(name): _readable(item) for name, item in pairs}
    return value


def _bundle(given: Mapping[str, object], budget: _Budget) -> dict[str, str | bytes]:
    """Return the representations that are what their media type says."""
    kept: dict[str, str | bytes] = {}
    for name, value in given.items():
        mime = name.lower()
        if not isinstance(value, str) or not _MIME.fullmatch(mime):
            continue
        content = _content(mime, value, budget)
        if content is not None and len(kept) < MAX_REPRESENTATIONS:
            kept[mime] = content
    return kept


def _content(mime: str, value: str, budget: _Budget) -> str | bytes | None:
    if mime in BINARY:
        try:
            return binascii.a2b_base64(value.replace("\n", ""), strict_mode=True) or None
        except ValueError:  # binascii.Error, or text that is not ASCII
            return None
    if mime == "application/json" or mime.endswith("+json"):
        try:
            return value if _is_json(value.encode(), budget) else None
        except _NotFiniteError:
            return None
    return value


def _is_json(raw: bytes, budget: _Budget) -> bool:
    return raw.strip() == b"null" or _parsed(raw, budget) is not None
