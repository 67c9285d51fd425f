# SPDX-License-Identifier: Apache-2.0
"""What is sent after a response is complete goes nowhere."""

from __future__ import annotations

import pytest
from starlette.types import Message

from waggle.web.answers import until_complete

pytestmark = pytest.mark.anyio


async def test_a_second_answer_is_dropped() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    guarded = until_complete(send)
    first: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    ]
    late: list[Message] = [
        {"type": "http.response.start", "status": 500, "headers": []},
        {"type": "http.response.body", "body": b"c"},
    ]
    for message in (*first, *late):
        await guarded(message)
    assert sent == first
