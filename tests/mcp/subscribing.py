# SPDX-License-Identifier: Apache-2.0
"""Subscriptions as 2025 clients make them; version 2026-07-28 has no such request."""

from __future__ import annotations

from mcp import Client
from mcp_types import (
    EmptyResult,
    SubscribeRequest,
    SubscribeRequestParams,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)


async def subscribe(agent: Client, uri: str) -> None:
    request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
    await agent.session.send_request(request, EmptyResult)


async def unsubscribe(agent: Client, uri: str) -> None:
    request = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
    await agent.session.send_request(request, EmptyResult)
