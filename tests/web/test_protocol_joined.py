# SPDX-License-Identifier: Apache-2.0
"""An answer's head is sent with its body, and waits at most one turn of the loop."""

from __future__ import annotations

import asyncio

import anyio.lowlevel
import pytest

from waggle.web.joined import Joined

pytestmark = pytest.mark.anyio


class Sent(asyncio.Transport):
    """A transport that records what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def joined() -> tuple[Joined, Sent]:
    sent = Sent()
    return Joined(sent, asyncio.get_running_loop()), sent


async def test_head_and_body_are_sent_together_and_the_rest_at_once() -> None:
    answer, sent = joined()
    for part in (b"head", b"body", b"more"):
        answer.write(part)
    assert sent.writes == [b"headbody", b"more"]
    await anyio.lowlevel.checkpoint()
    assert sent.writes == [b"headbody", b"more"]


async def test_an_empty_body_does_not_delay_the_head() -> None:
    answer, sent = joined()
    answer.write(b"head")
    answer.write(b"")
    assert sent.writes == [b"head"]


async def test_a_head_alone_is_sent_at_the_end_of_the_turn() -> None:
    answer, sent = joined()
    answer.write(b"head")
    assert sent.writes == []
    await anyio.lowlevel.checkpoint()
    assert sent.writes == [b"head"]
    answer.write(b"event")
    assert sent.writes == [b"head", b"event"]


async def test_closing_sends_the_waiting_head() -> None:
    answer, sent = joined()
    answer.write(b"head")
    answer.close()
    assert sent.writes == [b"head"]
    assert answer.is_closing()
    await anyio.lowlevel.checkpoint()
