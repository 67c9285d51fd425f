# SPDX-License-Identifier: Apache-2.0
"""The unpublished names of the MCP SDK that `waggle.mcp.sdk` uses; and that nothing else does."""

from __future__ import annotations

import importlib
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from tests.support.server import default_tools, mcp_server

import waggle.mcp
from waggle.mcp.sdk import connection_of, lowlevel_of

SDK = f"mcp {version('mcp')}"
NAMES = [
    ("mcp.server.connection", "Connection"),
    ("mcp.server.mcpserver.utilities.func_metadata", "ArgModelBase"),
    ("mcp.server.mcpserver.utilities.func_metadata", "FuncMetadata"),
    ("mcp.shared.inbound", "X_MCP_HEADER_KEY"),
]
INSIDE = (
    *("exit_stack", "state", "session_id"),
    *("send_resource_updated", "send_resource_list_changed"),
)
"""The attributes of a connection that `resources.subscriptions` uses."""
READ = ("arg_model", "output_schema", "pre_parse_json", "validate_arguments")
"""The attributes of a function's metadata that `schema.tool` and `server` use."""


@pytest.mark.parametrize("module, name", NAMES)
def test_the_sdk_has_a_module_level_name(module: str, name: str) -> None:
    try:
        found = hasattr(importlib.import_module(module), name)
    except ImportError:
        found = False
    assert found, f"{SDK} has no {module}.{name}"


def test_the_sdk_s_server_has_its_low_level_server() -> None:
    server: MCPServer[dict[str, Any]] = MCPServer("a")
    assert hasattr(server, "_lowlevel_server"), f"{SDK} has no MCPServer._lowlevel_server"
    for name in ("add_request_handler", "middleware"):
        assert hasattr(lowlevel_of(server), name), f"{SDK} has no Server.{name}"


def test_metadata_of_functions_has_the_attributes_in_use() -> None:
    metadata = default_tools()[0].fn_metadata
    assert isinstance(metadata, FuncMetadata), f"{SDK}: Tool.fn_metadata is no FuncMetadata"
    for name in READ:
        assert hasattr(metadata, name), f"{SDK} has no FuncMetadata.{name}"


@pytest.mark.anyio
async def test_a_request_has_its_connection() -> None:
    wrong: list[str] = []

    async def look(ctx: Any, call_next: Any) -> Any:
        if not hasattr(ctx.session, "_connection"):
            wrong.append("ServerSession._connection")
        else:
            connection = connection_of(ctx)
            wrong.extend(f"Connection.{name}" for name in INSIDE if not hasattr(connection, name))
        return await call_next(ctx)

    async with mcp_server() as server:
        server.lowlevel.middleware.append(look)
        async with Client(server) as agent:
            await agent.list_tools()
    assert not wrong, f"{SDK} has no {', '.join(sorted({*wrong}))}"


def test_only_one_module_uses_unpublished_names_of_the_sdk() -> None:
    top = Path(waggle.mcp.__file__).parent
    unpublished = re.compile(
        r"reportPrivateUsage|\._lowlevel_server|\._connection\b"
        rf"|from (?:{'|'.join({re.escape(module) for module, _ in NAMES})}) import"
    )
    using = [path.name for path in top.rglob("*.py") if unpublished.search(path.read_text())]
    assert using == ["sdk.py"]
