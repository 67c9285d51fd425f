# SPDX-License-Identifier: Apache-2.0
"""Headers are read once; one answer per request, later ones are dropped, a crash gets one."""

from __future__ import annotations

import json
import re

import pytest
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from waggle.web.answers import Fields, answered, fields

pytestmark = pytest.mark.anyio


async def test_headers_are_read_once_and_stay_as_the_client_sent_them() -> None:
    scope: Scope = {"headers": [(b"accept", b"a"), (b"host", b"\xe9")]}
    read = fields(scope)
    scope["headers"] = [(b"accept", b"for the SDK")]
    assert fields(scope) is read
    assert (read[b"accept"], read.text(b"host"), read.text(b"origin")) == (b"a", "\xe9", None)


async def test_of_a_repeated_header_the_first_counts_and_its_name_is_listed() -> None:
    read = Fields([(b"host", b"a"), (b"x", b""), (b"host", b"b")])
    assert (read, read.repeated) == ({b"host": b"a", b"x": b""}, {b"host"})
    assert not Fields([(b"host", b"a")]).repeated


async def test_a_second_answer_is_dropped() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    first: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    ]
    late: list[Message] = [
        {"type": "http.response.start", "status": 500, "headers": []},
        {"type": "http.response.body", "body": b"c"},
    ]

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in (*first, *late):
            await send(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await answered(app, {"type": "http"}, receive, send)
    assert sent == first


async def crashed(*before: Message) -> tuple[list[Message], str | None, str]:
    """Run an app that fails after `before`; return what it sent, the logged id, and the end."""
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise OSError("secret detail")

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    end = "answered"
    with capture_logs() as logs:
        try:
            await answered(app, {"type": "http"}, receive, send)
        except OSError:
            end = "raised"
    (logged,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert logged["event"] == "request_crashed"
    return sent, logged["error_id"], end


async def test_a_crash_is_answered_with_the_error_id_of_the_log() -> None:
    sent, error_id, end = await crashed()
    assert (sent[0]["status"], end) == (500, "answered")
    error = json.loads(sent[1]["body"])["error"]
    assert error["code"] == -32603
    assert re.search(r"Internal error (\w+)\.", error["message"])[1] == error_id  # pyright: ignore[reportOptionalSubscript]  # None fails, too
    assert "secret" not in error["message"]


async def test_a_crash_in_the_middle_of_an_answer_ends_the_connection() -> None:
    head: Message = {"type": "http.response.start", "status": 200, "headers": []}
    sent, error_id, end = await crashed(head)
    assert (sent, end) == ([head], "raised")
    assert error_id
