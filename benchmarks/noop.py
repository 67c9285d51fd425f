# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.noop PORT PARSER`: the SDK's smallest server, with a no-op tool.

The other side of the rows `call-*`. Serves streamable HTTP on loopback as the SDK's own `run` does.
The HTTP parser is an argument, because uvicorn uses httptools if that is installed, but only h11
installs with the SDK.
"""

from __future__ import annotations

import sys
from typing import Literal

import uvicorn
from mcp.server.mcpserver import MCPServer

Parser = Literal["h11", "httptools"]

TOOL = "noop"
KEEP_ALIVE_SECONDS = 60
"""Longer than the time between its turns: a new connection would count against it."""


async def noop() -> None:
    """Do nothing."""


def main(port: int, parser: Parser) -> None:
    """Serve until a signal."""
    server = MCPServer[None]("noop", log_level="WARNING")
    server.add_tool(noop, name=TOOL)
    uvicorn.run(
        server.streamable_http_app(),
        host="127.0.0.1",
        port=port,
        loop="asyncio",
        http=parser,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), "httptools" if sys.argv[2] == "httptools" else "h11")
