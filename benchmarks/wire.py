# SPDX-License-Identifier: Apache-2.0
"""MCP over a bare socket: requests of both revisions, with hardly any work for the client.

The SDK's client takes longer for a call than a server does, so a ratio of two servers behind it
says little. This one writes prepared bytes and reads the whole answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

STATEFUL, MODERN = "2025-11-25", "2026-07-28"
ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def message(self) -> dict[str, Any]:
        """Return the JSON-RPC message of a plain answer, or of the last event of a stream."""
        data = self.body
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            lines = [line for line in data.splitlines() if line.startswith(b"data: {")]
            data = lines[-1].removeprefix(b"data: ")
        return dict(json.loads(data))


class Wire:
    """One connection that stays open. One request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> Answer:
        """Send the bytes of a request. Raises TimeoutError, or the errors of asyncio's streams."""
        async with asyncio.timeout(ANSWER_SECONDS):
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            return Answer(int(first.split()[1]), headers, await self._body(headers))

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        chunks: list[bytes] = []
        while headers.get("transfer-encoding") == "chunked":
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            chunks.append((await self._reader.readexactly(size + 2))[:-2])
            if not size:
                break
        return b"".join(chunks)


@asynccontextmanager
async def wire(url: str) -> AsyncGenerator[Wire]:
    """Connect for the length of the block."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def get(url: str, path: str, token: str = "") -> bytes:
    """Return the bytes of a GET of another path of the same server. Pure."""
    return _request("GET", url, path, _authorization(token), b"")


def initialize(url: str, token: str = "") -> bytes:
    """Return the request that opens a session of the revision 2025-11-25. Pure."""
    client = {"name": "bench", "version": "1"}
    params = {"protocolVersion": STATEFUL, "capabilities": {}, "clientInfo": client}
    return _post(url, "initialize", params, _authorization(token))


def tool_call(url: str, tool: str, *, token: str = "", session: str = "") -> bytes:
    """Return a tool call without arguments, in a session or of revision 2026-07-28. Pure."""
    params: dict[str, Any] = {"name": tool, "arguments": {}}
    if session:
        headers = {"MCP-Protocol-Version": STATEFUL, "Mcp-Session-Id": session}
    else:
        namespace = "io.modelcontextprotocol"
        params["_meta"] = {
            f"{namespace}/protocolVersion": MODERN,
            f"{namespace}/clientCapabilities": {},
            f"{namespace}/clientInfo": {"name": "bench", "version": "1"},
        }
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    return _post(url, "tools/call", params, {**headers, **_authorization(token)})


def _authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _post(url: str, method: str, params: Mapping[str, Any], more: Mapping[str, str]) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **more,
    }
    return _request("POST", url, urlsplit(url).path, headers, body)


def _request(verb: str, url: str, path: str, more: Mapping[str, str], body: bytes) -> bytes:
    headers = {"Host": urlsplit(url).netloc, "Content-Length": str(len(body)), **more}
    lines = [f"{verb} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
