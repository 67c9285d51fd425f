# SPDX-License-Identifier: Apache-2.0
"""The unpublished parts of the MCP SDK that `waggle.mcp` uses.

tests/mcp/test_sdk.py has all of these names, so that a new SDK without one fails by name.
"""

from __future__ import annotations

from typing import Any

from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.inbound import X_MCP_HEADER_KEY

__all__ = [
    "X_MCP_HEADER_KEY",
    "ArgModelBase",
    "Connection",
    "FuncMetadata",
    "connection_of",
    "lowlevel_of",
]


def connection_of(ctx: ServerRequestContext[Any, Any]) -> Connection:
    """Return the connection that a request came by.

    The SDK documents `Connection.exit_stack` for handlers, without public access to it.
    """
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def lowlevel_of(server: MCPServer[dict[str, Any]]) -> Server[dict[str, Any]]:
    """Return the low-level server inside the SDK's own, which takes handlers of all requests."""
    return server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
