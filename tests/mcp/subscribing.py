# SPDX-License-Identifier: Apache-2.0
"""Subscriptions as 2025 clients make them, and what they hear; 2026-07-28 has no such request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    EmptyResult,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)
from tests.support.server import Rig


@dataclass(slots=True)
class Heard:
    """The notices that a 2025 client received, as URIs; `list` means that the list changed."""

    notices: list[str] = field(default_factory=list[str])
    events: anyio.Event = field(default_factory=anyio.Event)

    async def take(self, message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.notices.append(message.params.uri)
        elif isinstance(message, ResourceListChangedNotification):
            self.notices.append("list")
        self.events.set()

    async def until(self, enough: Callable[[list[str]], bool]) -> None:
        with anyio.fail_after(5):
            while not enough(self.notices):
                self.events = anyio.Event()
                await self.events.wait()


@asynccontextmanager
async def session(rig: Rig, heard: Heard) -> AsyncGenerator[Client]:
    transport = streamable_http_client(rig.mcp)
    async with Client(
        transport, mode="legacy", read_timeout_seconds=20, message_handler=heard.take
    ) as agent:
        yield agent


async def subscribe(agent: Client, uri: str) -> None:
    request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
    await agent.session.send_request(request, EmptyResult)


async def unsubscribe(agent: Client, uri: str) -> None:
    request = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
    await agent.session.send_request(request, EmptyResult)
