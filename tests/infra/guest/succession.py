# SPDX-License-Identifier: Apache-2.0
"""Agents that end and are followed by others, at the other end of a client's channel."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

from tests.support.agent_peer import GOOD, Peer, Request, good, line, paired, result

from waggle.infra.guest.client import AgentClient

STARTED: Final = line({"jsonrpc": "2.0", "method": "agent_started", "params": {"version": "1.0.0"}})


class Agents:
    """One agent after the other. It answers what `has` holds back when it is told to."""

    def __init__(self) -> None:
        self.has: list[Request] = []
        self.holds = True
        self.info: Callable[[Request], bytes] = self.tell
        self.peer: Peer | None = None

    def __call__(self, request: Request) -> bytes:
        if request["method"] == "get_agent_info":
            return self.info(request)
        if not self.holds:
            return good(request)
        self.has.append(request)
        return b""

    def tell(self, request: Request) -> bytes:
        """Say what it is, and truly what it has."""
        return result(request, self.what(*(one["id"] for one in self.has)))

    def keep_questions(self) -> list[Request]:
        """Answer no question what it is; return them, as they come."""
        asked: list[Request] = []

        def keep(request: Request) -> bytes:
            asked.append(request)
            return b""

        self.info = keep
        return asked

    @staticmethod
    def what(*pending: object) -> dict[str, object]:
        return {**GOOD["get_agent_info"], "pending": [*pending]}

    @property
    def greetings(self) -> int:
        assert self.peer is not None
        return [one["method"] for one in self.peer.seen].count("get_agent_info")

    async def die(self) -> None:
        """End, in the middle of an answer, and have the next one start."""
        assert self.peer is not None
        self.has.clear()
        await self.peer.send(b'{"jsonrpc":"2.0","id":1,"res\n' + STARTED)

    async def answer(self) -> None:
        assert self.peer is not None
        await self.peer.send(b"".join(map(good, self.has)))
        self.has.clear()


@contextlib.asynccontextmanager
async def agents() -> AsyncGenerator[tuple[AgentClient, Agents]]:
    """A client that has negotiated, and its agents."""
    made = Agents()
    async with paired(made) as (client, peer):
        made.peer = peer
        await client.agent_info()
        yield client, made
