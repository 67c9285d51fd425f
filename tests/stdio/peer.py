# SPDX-License-Identifier: Apache-2.0
"""A stdio server in the test's own loop, over real pipes, and the client's ends of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import anyio
from tests.support.server import INITIALIZE, Setup, make_services, request

from waggle.mcp.context import Services
from waggle.mcp.observed import Calls
from waggle.mcp.server import build_mcp
from waggle.mcp.tools import CARRIERS
from waggle.stdio import Lines, Wire
from waggle.stdio.server import StdioLimits, StdioServer

LIMITS = StdioLimits(carriers=CARRIERS)


@dataclass
class Peer:
    """The client's side. `ended` is set when the server has ended."""

    services: Services
    calls: Calls
    server: StdioServer
    wire: Wire
    ended: anyio.Event = field(default_factory=anyio.Event)
    closed: set[int] = field(default_factory=set[int])

    def __post_init__(self) -> None:
        self._lines = Lines(1 << 26)
        self._messages: list[dict[str, Any]] = []

    async def write(self, data: bytes) -> None:
        await self.wire.write(data)

    async def send(self, *messages: object) -> None:
        for message in messages:
            await self.write(json.dumps(message).encode() + b"\n")

    async def message(self) -> dict[str, Any]:
        """Return the next message of the server."""
        with anyio.fail_after(20):
            while not self._messages:
                data = await self.wire.read()
                assert data, "the server closed its side"
                self._messages += [json.loads(bytes(line)) for line in self._lines.feed(data)]  # pyright: ignore[reportArgumentType]  # none is too long
        return self._messages.pop(0)

    async def answer(self, number: object) -> dict[str, Any]:
        """Return the answer to a request; messages before it are dropped."""
        while (message := await self.message()).get("id") != number or "method" in message:
            pass
        return message

    async def start(self) -> None:
        await self.send(INITIALIZE)
        await self.answer(1)
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def call(self, number: int, tool: str, **arguments: object) -> dict[str, Any]:
        await self.send(call(number, tool, **arguments))
        return (await self.answer(number))["result"]

    def close(self, descriptor: int) -> None:
        if descriptor not in self.closed:
            self.closed.add(descriptor)
            os.close(descriptor)

    def hang_up(self) -> None:
        """Close the server's input, as a client does at its end."""
        self.close(self.wire.target)

    def go_deaf(self) -> None:
        """Close the server's output."""
        self.close(self.wire.source)


def call(number: int, tool: str, **arguments: object) -> Any:
    return request("tools/call", {"name": tool, "arguments": arguments}, number=number)


@contextlib.asynccontextmanager
async def serving(
    setup: Setup | None = None, limits: StdioLimits | None = None
) -> AsyncGenerator[Peer]:
    """Run a server; end it and close its pipes at the end of the block."""
    (source, to_server), (from_server, target) = os.pipe(), os.pipe()
    async with anyio.create_task_group() as tasks, anyio.create_task_group() as group:
        services = make_services(setup or Setup(), tasks)
        mcp = build_mcp(services)
        server = StdioServer(mcp.lowlevel, mcp.calls, Wire(source, target), limits or LIMITS)
        peer = Peer(services, mcp.calls, server, Wire(from_server, to_server))

        async def run() -> None:
            await server.run()
            peer.ended.set()

        group.start_soon(run)
        try:
            yield peer
        finally:
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await services.environments.aclose()  # as the composition root does
            tasks.cancel_scope.cancel()
            for descriptor in (source, target, from_server, to_server):
                peer.close(descriptor)
