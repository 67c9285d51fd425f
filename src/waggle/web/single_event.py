# SPDX-License-Identifier: Apache-2.0
"""Answer as plain JSON what the MCP server answers as an event stream of one event.

For requests that are answered at once, so that `curl ... | jq .` works. Other answers (errors,
202) pass through as they are.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVENT_STREAM = "text/event-stream"
_KEPT_HEADERS = ("mcp-session-id", "cache-control")


async def as_json(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`; if it answers with an event stream, send the last event's data as JSON."""
    start: Message | None = None
    stream = bytearray()

    async def collect(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            content_type = Headers(raw=message["headers"]).get("content-type", "")
            if content_type.startswith(EVENT_STREAM):
                start = message
                return
        if start is None:
            await send(message)
            return
        stream.extend(message.get("body", b""))
        if not message.get("more_body", False):
            await _answer(start, last_data(bytes(stream)), send)

    await app(scope, receive, collect)


async def _answer(start: Message, data: bytes, send: Send) -> None:
    given = Headers(raw=start["headers"])
    kept = [(name, given[name]) for name in _KEPT_HEADERS if name in given]
    headers = [
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in kept),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(data)).encode("ascii")),
    ]
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": data, "more_body": False})


def last_data(stream: bytes) -> bytes:
    """The data of the last event of an event stream; empty when there is none."""
    events = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
    for event in reversed(events):
        lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
    return b""
