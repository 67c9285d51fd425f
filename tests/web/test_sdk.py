# SPDX-License-Identifier: Apache-2.0
"""What `waggle.web.sdk` needs of the SDK that no documentation promises."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import pytest
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, authorization_context
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from tests.support.server import INITIALIZE, raw, serving

from waggle.web.sdk import SessionLimits, Sessions

SDK = f"in mcp {version('mcp')}, which is installed; waggle/web/sdk.py needs it"


def test_the_managers_take_the_limits_that_they_are_given() -> None:
    known = inspect.signature(StreamableHTTPSessionManager).parameters
    needed = {"stateless", "session_idle_timeout", "max_sessions", "max_request_body_size"}
    assert needed <= set(known), f"StreamableHTTPSessionManager lacks {needed - set(known)} {SDK}"


def test_a_manager_lists_the_owners_of_its_sessions() -> None:
    server: Server[Any] = Server("test")
    owners = getattr(StreamableHTTPSessionManager(server), "_session_owners", None)
    assert owners == {}, f"StreamableHTTPSessionManager._session_owners is no dict {SDK}"
    context = authorization_context(
        AuthenticatedUser(AccessToken(token="", client_id="ann", scopes=[]))
    )
    assert context["client_id"] == "ann", f"AuthorizationContext has no client_id {SDK}"
    assert len(Sessions(server, SessionLimits(idle_seconds=1, maximum=1), 1)) == 0


@pytest.mark.anyio
async def test_an_open_session_is_counted_under_its_id_until_it_ends() -> None:
    async with serving() as rig, raw(rig) as http:
        begun = await http.post("/mcp", json=INITIALIZE)
        assert rig.web.endpoint.sessions == 1, f"an open session has no owner {SDK}"
        session = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        assert (await http.delete("/mcp", headers=session)).status_code == 200
        assert rig.web.endpoint.sessions == 0, f"an ended session keeps its owner {SDK}"
