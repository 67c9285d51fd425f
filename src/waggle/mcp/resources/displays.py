# SPDX-License-Identifier: Apache-2.0
"""Displays as resources: the list of a job's, all of one as JSON, and its single forms. Pure.

Called by `resources.read`, which makes pages of what this returns. Binary representations are
base64 in JSON, and bytes in a resource of their own.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

from waggle.domain.errors import JobNotFound
from waggle.domain.programs.display import Display, DisplayRecords
from waggle.mcp.uris import CHART, DisplayAddress, DisplaysAddress, display_uri, displays_uri

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Form:
    """The bytes of a resource and their media type."""

    data: bytes
    mime_type: str
    is_text: bool = True


def listed(records: DisplayRecords, address: DisplaysAddress) -> Form:
    """Return the list of a job's displays, and the number of those that were not kept."""
    displays = records.read()
    of = (address.environment_id, address.number)
    items = [
        {"uri": display_uri(*of, display.index), **_about(display), "mime_types": [*display.data]}
        for display in displays.items
    ]
    return _json({"displays": items, "dropped": displays.dropped})


def form_of(records: DisplayRecords, address: DisplayAddress) -> Form:
    """Return one display, or one form of it. Raises JobNotFound."""
    display = records.one(address.index)
    if display is not None:
        if not address.form:
            return _json(_whole(display))
        if address.form == CHART and display.chart is not None:
            return _json(display.chart)
        content = display.data.get(address.form)
        if isinstance(content, bytes):
            return Form(content, address.form, is_text=False)
        if content is not None:
            return Form(content.encode("utf-8"), address.form)
    raise JobNotFound(
        f"Job {address.number} has no such display, or not in that form.",
        hint=f"{displays_uri(address.environment_id, address.number)} lists them.",
    )


def _about(display: Display) -> dict[str, Any]:
    return {
        "index": display.index,
        "stdout_offset": display.stdout_at,
        "stderr_offset": display.stderr_at,
    }


def _whole(display: Display) -> dict[str, Any]:
    data = {
        mime: value if isinstance(value, str) else base64.b64encode(value).decode("ascii")
        for mime, value in display.data.items()
    }
    chart = {} if display.chart is None else {"chart": display.chart}
    return {**_about(display), "data": data, "metadata": display.metadata, **chart}


def _json(value: Any) -> Form:
    return Form(json.dumps(value, ensure_ascii=False).encode("utf-8"), JSON)
