# SPDX-License-Identifier: Apache-2.0
"""An event stream of one event becomes JSON; all other answers pass through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from waggle.web.answers import as_json, last_data


async def run(messages: list[Message]) -> list[Message]:
    """Return what is sent to the client when the application sends `messages`."""
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await as_json(app, {"type": "http"}, receive, send)
    return sent


def start(content_type: str, *more: tuple[bytes, bytes]) -> Message:
    headers = [(b"content-type", content_type.encode()), *more]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body(data: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


@pytest.mark.anyio
async def test_a_stream_becomes_json_and_keeps_the_session() -> None:
    sent = await run(
        [
            start("text/event-stream; charset=utf-8", (b"mcp-session-id", b"s"), (b"x", b"y")),
            body(b": ping\r\n\r\nevent: mess", more=True),
            body(b'age\r\ndata: {"id": 1}\r\n\r\n', more=True),
            body(b""),
        ]
    )
    assert dict(sent[0]["headers"]) == {
        b"mcp-session-id": b"s",
        b"content-type": b"application/json",
        b"content-length": b"9",
    }
    assert sent[1:] == [body(b'{"id": 1}')]


@pytest.mark.anyio
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_other_answers_pass_through(content_type: str) -> None:
    messages = [start(content_type), body(b"data: x\n\n", more=True), body(b"")]
    assert await run(messages) == messages


def test_the_last_event_is_found_with_every_kind_of_line_end() -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        lines = [b"data: 1", b"", b"id: 5", b"data: 2", b"data:3", b"", b": ping", b"", b""]
        assert last_data(end.join(lines)) == b"2\n3"
    assert last_data(b": ping\n\n") == b""


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_any_json_document_passes_through(value: object) -> None:
    document = json.dumps(value).encode()
    assert last_data(b"event: message\r\ndata: " + document + b"\r\n\r\n") == document
