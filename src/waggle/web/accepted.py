# SPDX-License-Identifier: Apache-2.0
"""Which forms of an answer a client takes: JSON, an event stream, or both. Pure.

MCP wants clients to name both in `Accept`, and the SDK refuses those that do not. Clients in use
name one of the two, or none, and an answer can always be given in the form that they do name.
Called by `waggle.web.endpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from starlette.types import Scope

_JSON = b"application/json"
_EVENTS = b"text/event-stream"
_AS_THE_SDK_WANTS = {b"accept": _JSON + b", " + _EVENTS, b"content-type": _JSON}


class Forms(NamedTuple):
    """What a client can read. Without either, there is no answer for it."""

    json: bool
    events: bool


def forms(accept: bytes | None) -> Forms:
    """Read an Accept header. Who sends none is a plain program, and those parse JSON."""
    if accept is None or not accept.strip():
        return Forms(json=True, events=False)
    kinds = {each.partition(b";")[0].strip().lower() for each in accept.split(b",")}
    anything = b"*/*" in kinds
    return Forms(
        json=anything or not kinds.isdisjoint((_JSON, b"application/*")),
        events=anything or not kinds.isdisjoint((_EVENTS, b"text/*")),
    )


def is_json(content_type: bytes | None) -> bool:
    """Whether a body is JSON, in whatever case its type is written."""
    return (content_type or b"").partition(b";")[0].strip().lower() == _JSON


def fit_for_sdk(headers: Mapping[bytes, bytes], taken: Forms, scope: Scope) -> None:
    """Let `scope` say of its request what the SDK wants to hear, where it would refuse it."""
    if all(taken) and headers[b"content-type"].startswith(_JSON):
        return
    others = [each for each in scope["headers"] if each[0] not in _AS_THE_SDK_WANTS]
    scope["headers"] = [*others, *_AS_THE_SDK_WANTS.items()]
