# SPDX-License-Identifier: Apache-2.0
"""The displays of a job as a result shows them: among its output, and as pictures. Pure.

Called by `results.programs`. A model pays for what it reads: one line for a picture, nothing beside
the text of a table, one URI where something is not shown. Clients that draw get all of it in the
result's `_meta`, which no model sees. The guest wrote all of it: titles are cleaned, a picture is
shown only if its bytes are what they claim and its header gives a size within MAX_PIXELS, and
everything is bounded in number and in size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mcp_types import ContentBlock, ImageContent, ResourceLink
from pydantic import BaseModel, Field

from waggle.domain.programs.display import Display, Displays
from waggle.domain.programs.job import JobView
from waggle.domain.programs.text import Insert, cleaned
from waggle.mcp.errors import clean
from waggle.mcp.results import COPY_BUDGET, Hint, text_cost, wire_size
from waggle.mcp.results.pictures import MAX_IMAGE_BYTES, image_content, image_type, pixels
from waggle.mcp.uris import CHART, display_uri, displays_uri

MAX_PICTURES: Final = 8
"""Pictures in one result."""
MAX_PIXELS: Final = 4 << 20
"""Pixels of one picture: more is scaled down by models, and costs them as much."""
MAX_SHOWN: Final = 50
"""Displays among the text of a result."""
MAX_LISTED: Final = 10
MAX_TYPES: Final = 8
MAX_TEXT: Final = 4_000
"""Characters of one display among the text."""
MAX_SOURCE: Final = 400
"""The same where text is only the source of what a client draws."""
MAX_CHART: Final = 2_000
"""Bytes of a chart's JSON in structured content."""
MAX_CHARTS: Final = 8_000
_MAX_TITLE = 80
_PICTURES: Final = ("image/png", "image/jpeg", "image/webp", "image/gif")
_TEXTS: Final = ("text/plain", "text/markdown", "text/latex")
_SAME_AS_TEXT: Final = frozenset({*_TEXTS, "text/html", "application/json"})
"""Forms that say the same as the text of a display."""
_REPR: Final = re.compile(r"<[\w.]+ object(?: at 0x[0-9a-f]+)?>")
"""Text that only names the class of an object."""
_DRAWN: Final = re.compile(r"application/vnd\.(?:plotly|vega)[\w.-]*\+json")


DISPLAYS_META_KEY: Final = "waggle/displays"
"""The key in a result's `_meta` of its displays, for clients that draw them."""


class ChartItem(BaseModel):
    """What a display draws that the result does not show."""

    display: int = Field(description="Counts from 1 in its job.")
    chart: dict[str, Any] = Field(description="Type, titles, series.")


class DisplayItem(BaseModel):
    """A display in `_meta`: its forms, and where they are."""

    index: int
    mime_types: list[str]
    uri: str
    """Resource with all of it; a media type after it has one form."""
    chart: dict[str, Any] | None = None
    chart_uri: str = ""
    """Resource with the chart, if that is long."""


@dataclass(frozen=True, slots=True)
class ShownDisplays:
    """Displays in the parts of a result.

    Among stdout, as charts of those that are not shown, as blocks, as hints, and as `_meta`. `uri`
    has all of them, if not all is shown.
    """

    inserts: Sequence[Insert] = ()
    charts: list[ChartItem] = field(default_factory=list[ChartItem])
    uri: str = ""
    blocks: Sequence[ContentBlock] = ()
    hints: Sequence[Hint] = ()
    items: Sequence[DisplayItem] = ()


@dataclass(frozen=True, slots=True)
class _Picture:
    """The representation of a display that a model can see, and its block if it is shown."""

    kind: str
    size: tuple[int, int]
    block: ImageContent | None


def shown_displays(
    view: JobView, characters: int, *, pictures: bool, linked: bool = True
) -> ShownDisplays:
    """Return the displays of a job; text of at most a third of `characters`.

    `pictures` shows pictures. Without `linked` nothing refers to resources, because there are none.
    """
    found = view.displays.read()
    displays = found.items
    if not displays and not found.dropped:
        return ShownDisplays()
    drawn = _pictures(view, displays, MAX_PICTURES if pictures else 0)
    inserts, texts = _inserts(displays, drawn, characters)
    blocks: list[ContentBlock] = []
    for display in displays:
        picture = drawn.get(display.index)
        if picture and picture.block:
            blocks.append(picture.block)
            blocks += [_link(view, display, picture)] if linked else []
    if not linked:
        return ShownDisplays(inserts, blocks=blocks, hints=_lost(found))
    hidden = [display for display in displays if not _is_shown(display, drawn, texts)]
    charts = [ChartItem(display=at, chart=one) for at, one in _short_charts(hidden).items()]
    uri = displays_uri(view.environment_id, view.number) if hidden else ""
    return ShownDisplays(inserts, charts, uri, blocks, _lost(found), _items(view, displays))


def _lost(found: Displays) -> list[Hint]:
    count = found.dropped
    what = "1 display was" if count == 1 else f"{count} displays were"
    return [Hint("", f"{what} too large, damaged or too many, and not kept")] if count else []


def _pictures(view: JobView, displays: Sequence[Display], count: int) -> dict[int, _Picture]:
    """Return the pictures by index; the first `count` that fit have a block.

    A result with pictures has no structured content, so they have the room of its copy too.
    """
    printed = wire_size(view.stdout.text()) + wire_size(view.stderr.text()) + COPY_BUDGET // 3
    room = 2 * COPY_BUDGET - min(COPY_BUDGET, printed)
    found: dict[int, _Picture] = {}
    for display in displays[:MAX_SHOWN]:
        for kind in _PICTURES:
            data = display.data.get(kind)
            size = pixels(data, kind) if isinstance(data, bytes) else None
            if not isinstance(data, bytes) or not size or image_type(data) != kind:
                continue
            fits = size[0] * size[1] <= MAX_PIXELS and len(data) <= MAX_IMAGE_BYTES
            block = image_content(data, kind) if fits and count else None
            if block and len(block.data) > room:
                block = None
            if block:
                room, count = room - len(block.data), count - 1
            found[display.index] = _Picture(kind, size, block)
            break
    return found


def _link(view: JobView, display: Display, picture: _Picture) -> ResourceLink:
    """Return a link to a picture, for a client that stores the bytes."""
    uri = display_uri(view.environment_id, view.number, display.index, picture.kind)
    return ResourceLink(
        type="resource_link",
        name=f"display {display.index}",
        uri=uri,
        mime_type=picture.kind,
        size=len(display.data[picture.kind]),
    )


def _inserts(
    displays: Sequence[Display], drawn: Mapping[int, _Picture], characters: int
) -> tuple[list[Insert], dict[int, bool]]:
    """Return texts for the first displays, and of which it is all; in a third of `characters`."""
    inserts: list[Insert] = []
    whole: dict[int, bool] = {}
    at, room = 0, characters // 3
    for number, display in enumerate(displays):
        at = max(at, display.stdout_at)
        for text, all_of_it in _choices(display, drawn.get(display.index)):
            if (cost := text_cost(text, characters) + 1) <= room and number < MAX_SHOWN:
                inserts.append(Insert(at, text))
                whole[display.index] = all_of_it
                room -= cost
                break
        else:
            left = len(displays) - number
            inserts.append(Insert(at, f"[{left} more display{'s' if left > 1 else ''}]"))
            break
    return inserts, whole


def _choices(display: Display, picture: _Picture | None) -> list[tuple[str, bool]]:
    """Return what can stand for a display, the best first, and whether it is all of its text."""
    named = _named(display)
    if picture is not None:
        if picture.block:
            return [(f"[picture {display.index}{named}]", False)]
        width, height = picture.size
        what = f"{picture.kind} {width}x{height}{named}; not shown"
        return [(f"[picture {display.index}: {what}]", False)]
    line = f"[display {display.index}: {', '.join(_types(display))}{named}]"
    text = _text(display)
    if text is None:
        return [(line, False)]
    drawn = any(_DRAWN.fullmatch(mime) for mime in display.data)
    if len(text) <= (MAX_SOURCE if drawn else MAX_TEXT):
        return [(text, True), (line, False)]
    if drawn:
        return [(line, False)]
    kept = text[:MAX_TEXT]
    kept = kept[: kept.rfind("\n") + 1].rstrip() or kept
    rest = f"[the rest of display {display.index} is not shown]"
    return [(f"{kept}\n{rest}", False), (line, False)]


def _text(display: Display) -> str | None:
    """Return a display's text for a model; None if it has none that says something."""
    for mime in _TEXTS:
        given = display.data.get(mime)
        text = cleaned(given[: 2 * MAX_TEXT]).strip("\n") if isinstance(given, str) else ""
        if text.strip() and not (len(display.data) > 1 and _REPR.fullmatch(text)):
            return text
    return None


def _named(display: Display) -> str:
    """Return the title of its chart after a comma; empty if it has none."""
    title = _title(display.chart)
    return f", {' '.join(clean(title, _MAX_TITLE).split())}" if title.strip() else ""


def _title(chart: Mapping[str, Any] | None) -> str:
    """Return the title of a chart, or of the first part that has one."""
    if chart is None:
        return ""
    title: object = chart.get("title")
    if isinstance(title, str) and title.strip():
        return title
    for value in chart.values():
        for part in cast("list[object]", value)[:MAX_PICTURES] if isinstance(value, list) else ():
            inner = cast("dict[str, object]", part).get("title") if isinstance(part, dict) else None
            if isinstance(inner, str) and inner.strip():
                return inner
    return ""


def _types(display: Display) -> list[str]:
    return list(display.data)[:MAX_TYPES]


def _is_shown(display: Display, drawn: Mapping[int, _Picture], whole: Mapping[int, bool]) -> bool:
    """Whether a result shows all that a model can take of a display."""
    if picture := drawn.get(display.index):
        return picture.block is not None
    return whole.get(display.index, False) and set(display.data) <= _SAME_AS_TEXT


def _short_charts(displays: Sequence[Display]) -> dict[int, dict[str, Any]]:
    """Return the charts of the first displays that are short, by index."""
    short: dict[int, dict[str, Any]] = {}
    room = MAX_CHARTS
    for display in displays[:MAX_LISTED]:
        size = wire_size(chart_text(display.chart)) if display.chart is not None else 0
        if display.chart is not None and size <= min(MAX_CHART, room):
            short[display.index] = dict(display.chart)
            room -= size
    return short


def _items(view: JobView, displays: Sequence[Display]) -> list[DisplayItem]:
    """Return the first displays with their URIs."""
    items: list[DisplayItem] = []
    short = _short_charts(displays)
    for display in displays[:MAX_LISTED]:
        of, chart = (view.environment_id, view.number, display.index), short.get(display.index)
        is_long = display.chart is not None and chart is None
        item = DisplayItem(index=display.index, mime_types=_types(display), uri=display_uri(*of))
        item.chart, item.chart_uri = chart, display_uri(*of, CHART) if is_long else ""
        items.append(item)
    return items


def chart_text(chart: Mapping[str, Any]) -> str:
    """Return the JSON of a chart."""
    return json.dumps(chart, ensure_ascii=False, separators=(",", ":"))


def chart_lines(charts: Sequence[ChartItem], uri: str) -> list[str]:
    """Return what structured content says of displays as lines of text."""
    lines = [f"[chart of display {item.display}: {chart_text(item.chart)}]" for item in charts]
    return [*lines, *([f"[more: {uri}]"] if uri else [])]


def displays_meta(items: Sequence[DisplayItem]) -> dict[str, Any]:
    """Return the displays as a part of `_meta`; empty if there are none."""
    shown = [item.model_dump(mode="json", exclude_defaults=True) for item in items]
    return {DISPLAYS_META_KEY: shown} if shown else {}
