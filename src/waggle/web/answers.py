# SPDX-License-Identifier: Apache-2.0
"""HTTP for the other modules of `waggle.web`: a request's headers, and answers in JSON.

`fields` reads the headers of a request once. MCP requires clients to name both JSON and event
streams in `Accept`, and the SDK refuses clients that do not; clients in use name one of the two or
none, so `forms` reads which one to use and `as_json` turns an event stream of one event into JSON.
Knows no tools.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog
from mcp_types import RequestId
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle.jsonrpc import INTERNAL_ERROR

log = structlog.get_logger(__name__)

FIELDS = "waggle.fields"
"""The key of a request's scope that holds its headers, once they were read."""


class Fields(dict[bytes, bytes]):
    """Headers by name in lower case; of a repeated header, the first. `repeated` names those."""

    repeated: frozenset[bytes] = frozenset()

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(reversed(headers))
        if len(self) < len(headers):
            counts = Counter(name for name, _ in headers)
            self.repeated = frozenset(name for name, count in counts.items() if count > 1)

    def text(self, name: bytes) -> str | None:
        """Return a value as text, decoded as servers and Starlette decode it."""
        value = self.get(name)
        return None if value is None else value.decode("latin-1")


def fields(scope: Scope) -> Fields:
    """Return the headers as the client sent them, whatever was replaced for the SDK since."""
    known: Fields | None = scope.get(FIELDS)
    if known is None:
        known = scope[FIELDS] = Fields(scope["headers"])
    return known


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


async def answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one JSON-RPC request with one answer: an internal error if `app` crashes before it.

    The SDK answers once more when a session ends during a call whose stream was already closed;
    uvicorn would report that as a crash, so it is dropped. A crash in the middle of the answer is
    raised: then only closing the connection shows it.
    """
    begun = complete = False

    async def once(message: Message) -> None:
        nonlocal begun, complete
        if complete:
            log.debug("late_answer_dropped", type=message["type"])
            return
        begun = True
        complete = message["type"] == "http.response.body" and not message.get("more_body")
        await send(message)

    try:
        await app(scope, receive, once)
    except Exception:
        error_id = secrets.token_hex(6)
        log.exception("request_crashed", error_id=error_id)
        if begun:
            raise
        why = f"Internal error {error_id}. This is a fault of the server; its log has the details"
        await rpc_error(500, INTERNAL_ERROR, f"{why} under this id.")(scope, receive, once)


JSON = b"application/json"
EVENTS = b"text/event-stream"


class Forms(NamedTuple):
    """The forms of an answer that a client accepts. With neither, it cannot be answered."""

    json: bool
    events: bool


def forms(accept: bytes | None) -> Forms:
    """Read an Accept header. A client that sends none is a plain program, and those parse JSON."""
    if accept is None or not accept.strip():
        return Forms(json=True, events=False)
    kinds = {kind.partition(b";")[0].strip().lower() for kind in accept.split(b",")}
    anything = b"*/*" in kinds
    return Forms(
        json=anything or not kinds.isdisjoint((JSON, b"application/*")),
        events=anything or not kinds.isdisjoint((EVENTS, b"text/*")),
    )


async def as_json(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`; if it answers with an event stream, send the last event's data as JSON.

    Other answers (errors, 202) pass through unchanged.
    """
    start: Message | None = None
    stream = bytearray()

    async def collect(message: Message) -> None:
        nonlocal start
        begins = message["type"] == "http.response.start"
        if begins and Fields(message["headers"]).get(b"content-type", b"").startswith(EVENTS):
            start = message
        elif start is None:
            await send(message)
        else:
            stream.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await _answer(start, last_data(bytes(stream)), send)

    await app(scope, receive, collect)


async def _answer(start: Message, data: bytes, send: Send) -> None:
    given = Fields(start["headers"])
    headers = [
        *((name, given[name]) for name in (b"mcp-session-id", b"cache-control") if name in given),
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(data)),
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
