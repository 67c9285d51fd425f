# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.noop PORT`: the least server of the MCP SDK, with a tool that does nothing.

The other side of the rows `call-*`. Serves streamable HTTP on loopback as the SDK's own `run` does.
"""

from __future__ import annotations

import sys

import uvicorn
from mcp.server.mcpserver import MCPServer

TOOL = "noop"
KEEP_ALIVE_SECONDS = 60
"""More than its turns are apart; a new connection would count against it."""


async def noop() -> None:
    """Do nothing."""


def main(port: int) -> None:
    """Serve until a signal."""
    server = MCPServer[None]("noop", log_level="WARNING")
    server.add_tool(noop, name=TOOL)
    uvicorn.run(
        server.streamable_http_app(),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
