# SPDX-License-Identifier: Apache-2.0
"""The curl calls of the development guide, as the guide writes them."""

from __future__ import annotations

INITIALIZE_CALL = """\
curl -s -X POST http://127.0.0.1:8080/mcp \\
  -H "Content-Type: application/json" \\
  -H "Accept: application/json, text/event-stream" \\
  -d '{
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
      "protocolVersion": "2025-11-25",
      "capabilities": {},
      "clientInfo": {"name": "curl-test", "version": "0.1"}
    }
  }' | jq ."""
LIST_CALL = """\
curl -s -X POST http://127.0.0.1:8080/mcp \\
  -H "Content-Type: application/json" \\
  -H "Accept: application/json, text/event-stream" \\
  -H "MCP-Protocol-Version: 2025-11-25" \\
  -d '{
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/list"
  }' | jq ."""
TOOL_CALL = """\
curl -s -X POST http://127.0.0.1:8080/mcp \\
  -H "Content-Type: application/json" \\
  -H "Accept: application/json, text/event-stream" \\
  -d '{"jsonrpc": "2.0", "id": 3, "method": "tools/call",
       "params": {"name": "create_environment", "arguments": {"runtime": "python"}}}' \\
  | sed -n 's/^data: //p' | jq ."""
