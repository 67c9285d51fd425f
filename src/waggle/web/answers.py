# SPDX-License-Identifier: Apache-2.0
"""The web layer's own answers, and the form in which a client gets an answer.

Problems outside of MCP and JSON-RPC errors are JSON. MCP requires clients to name both JSON and
event streams in `Accept`, and the SDK refuses clients that do not; clients in use name one of the
two or none, so `forms` reads which one to use and `as_json` turns an event stream of one event
into JSON. `Load` is the reason that `/readyz` gives when shared room is used up.
Used by `waggle.web.endpoint`, `waggle.web` and `waggle.web.server`. Knows no tools.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import structlog
from mcp_types import RequestId
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle.jsonrpc import INTERNAL_ERROR

log = structlog.get_logger(__name__)


def fields(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by name in lower case; of a repeated header, the first."""
    return dict(reversed(list(scope["headers"])))


def text(value: bytes | None) -> str | None:
    """Return a header's value as text, decoded as servers and Starlette decode it."""
    return None if value is None else value.decode("latin-1")


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error outside of MCP."""
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def rpc_error(
    status: int,
    code: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    number: RequestId | None = None,
    data: Mapping[str, object] | None = None,
) -> JSONResponse:
    """Return a JSON-RPC error for a request that never reached the MCP server.

    `number` is the id of the request, if known.
    """
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    body = {"jsonrpc": "2.0", "id": number, "error": error}
    return JSONResponse(body, status_code=status, headers=headers)


class OneAnswer:
    """A `send` that drops everything after a complete response.

    The SDK answers once more when a session ends during a call whose stream was already closed;
    uvicorn would report that as a crash of the application.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self._complete = False

    async def __call__(self, message: Message) -> None:
        """Send a part of the first response; drop later ones."""
        if self._complete:
            log.debug("late_answer_dropped", type=message["type"])
            return
        self.begun = True
        self._complete = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)


async def answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one JSON-RPC request, and answer with an internal error if `app` crashes.

    A crash in the middle of the response is raised: then only closing the connection shows it.
    """
    answer = OneAnswer(send)
    try:
        await app(scope, receive, answer)
    except Exception:
        error_id = secrets.token_hex(6)
        log.exception("request_crashed", error_id=error_id)
        if answer.begun:
            raise
        told = f"Internal error {error_id}. This is a fault of the server; its log has the details"
        await rpc_error(500, INTERNAL_ERROR, f"{told} under this id.")(scope, receive, answer)


_JSON = b"application/json"
_EVENTS = b"text/event-stream"
_AS_THE_SDK_WANTS = {b"accept": _JSON + b", " + _EVENTS, b"content-type": _JSON}


class Forms(NamedTuple):
    """The forms of an answer that a client accepts. With neither, it cannot be answered."""

    json: bool
    events: bool


def forms(accept: bytes | None) -> Forms:
    """Read an Accept header. A client that sends none is a plain program, and those parse JSON."""
    if accept is None or not accept.strip():
        return Forms(json=True, events=False)
    kinds = {each.partition(b";")[0].strip().lower() for each in accept.split(b",")}
    anything = b"*/*" in kinds
    return Forms(
        json=anything or not kinds.isdisjoint((_JSON, b"application/*")),
        events=anything or not kinds.isdisjoint((_EVENTS, b"text/*")),
    )


def is_json(content_type: bytes | None) -> bool:
    """Whether a Content-Type is JSON, in upper or lower case."""
    return (content_type or b"").partition(b";")[0].strip().lower() == _JSON


def fit_for_sdk(headers: Mapping[bytes, bytes], taken: Forms, scope: Scope) -> None:
    """Replace Accept and Content-Type in `scope` where the SDK would refuse the request."""
    if all(taken) and headers[b"content-type"].startswith(_JSON):
        return
    others = [each for each in scope["headers"] if each[0] not in _AS_THE_SDK_WANTS]
    scope["headers"] = [*others, *_AS_THE_SDK_WANTS.items()]


EVENT_STREAM = "text/event-stream"
_KEPT_HEADERS = ("mcp-session-id", "cache-control")


async def as_json(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`; if it answers with an event stream, send the last event's data as JSON.

    Other answers (errors, 202) pass through unchanged.
    """
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
    """Return the data of the last event of an event stream; empty when there is none."""
    events = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
    for event in reversed(events):
        lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
    return b""


class _Refusing(Protocol):
    @property
    def refusing(self) -> bool: ...


class _Full(Protocol):
    @property
    def full(self) -> bool: ...


class Load:
    """The shared limits of the server: memory for bodies, and connections."""

    def __init__(self, bodies: _Refusing) -> None:
        self._bodies = bodies
        self._connections: _Full | None = None

    def watch(self, connections: _Full) -> None:
        """Include these connections."""
        self._connections = connections

    @property
    def reason(self) -> str | None:
        """Why requests are refused because of other requests, or None if they are not."""
        if self._connections is not None and self._connections.full:
            return "As many requests are served as can be; further ones are refused."
        if self._bodies.refusing:
            return "Large requests use up the memory for them; further ones are refused."
        return None
