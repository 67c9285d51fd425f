# SPDX-License-Identifier: Apache-2.0
"""A VMM's API in this process, over a real Unix socket.

`serving` checks every request against a table of endpoints and their models, and has `respond` say
what the answer is; at its end it fails if a request was none of the table's. `speaking` leaves all
bytes to a script, for answers that are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, cast

import h11
from pydantic import BaseModel, ValidationError

from waggle.infra.vmm.client import Dial
from waggle.infra.vmm.endpoint import Endpoint

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is one of the table's."""

    endpoint: Endpoint[Any, Any]
    item: str
    request: BaseModel | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the VMM answers."""

    status: int = 204
    body: bytes = b""


Respond = Callable[[Call], Reply | Awaitable[Reply]]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(model: BaseModel | str) -> Reply:
    """Return an answer with this body."""
    text = model if isinstance(model, str) else model.model_dump_json(by_alias=True)
    return Reply(200, text.encode())


def fault(message: str, status: int = 400) -> Reply:
    """Return a refusal as Firecracker words it."""
    return Reply(status, json.dumps({"fault_message": message}).encode())


def causes(*messages: str, status: int = 500) -> Reply:
    """Return a refusal as Cloud Hypervisor words it."""
    return Reply(status, json.dumps(messages).encode())


@dataclass
class VmmServer:
    """The server's end: what it was asked, and what of that was wrong."""

    path: Path
    endpoints: tuple[Endpoint[Any, Any], ...]
    respond: Respond
    calls: list[Call] = field(default_factory=list[Call])
    wrong: list[str] = field(default_factory=list[str])
    connections: int = 0

    @property
    def names(self) -> list[str]:
        """The names of the methods that were called, in their order."""
        return [call.endpoint.name for call in self.calls]

    @property
    def dial(self) -> Dial:
        """What a client connects with."""
        return dialer(self.path)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends."""
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        with contextlib.suppress(h11.RemoteProtocolError, ConnectionError):
            while (request := await _request(http, reader)) is not None:
                head, body = request
                reply = await self._answer(head, body)
                headers = [("Server", "Test"), ("Content-Length", str(len(reply.body)))]
                if reply.status == 204:
                    headers.pop()
                writer.write(
                    http.send(h11.Response(status_code=reply.status, headers=headers))
                    + (http.send(h11.Data(data=reply.body)) or b"")
                    + (http.send(h11.EndOfMessage()) or b"")
                )
                await writer.drain()
                http.start_next_cycle()

    async def _answer(self, head: h11.Request, body: bytes) -> Reply:
        verb, path = head.method.decode(), head.target.decode()
        try:
            call = read(self.endpoints, verb, path, body)
        except ValueError as error:
            self.wrong.append(f"{verb} {path}: {error}")
            return fault(f"Invalid request method and/or path: {verb} {path}.")
        self.calls.append(call)
        reply = self.respond(call)
        return reply if isinstance(reply, Reply) else await reply


def read(endpoints: Iterable[Endpoint[Any, Any]], verb: str, path: str, body: bytes) -> Call:
    """Return a request as a call. Raises ValueError if it is none of the table's."""
    for endpoint in endpoints:
        pattern = re.sub(r"\\{\w+\\}", "([A-Za-z0-9_]+)", re.escape(endpoint.path))
        found = re.fullmatch(pattern, path)
        if endpoint.verb != verb or found is None:
            continue
        item = found[1] if found.groups() else ""
        if endpoint.request is NoneType:
            if body:
                raise ValueError("it has a body")
            return Call(endpoint, item, None)
        model = cast("type[BaseModel]", endpoint.request)
        try:
            request = model.model_validate_json(body)
        except ValidationError as error:
            raise ValueError(f"its body does not fit: {error}") from None
        for name in re.findall(r"{(\w+)}", endpoint.path):
            if getattr(request, name, item) != item:
                raise ValueError("The id from the path does not match the id from the body!")
        return Call(endpoint, item, request)
    raise ValueError("there is no such method")


def dialer(path: Path) -> Dial:
    """Return a dial for the socket at `path`."""

    async def dial() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, str(path))
        except BaseException:
            connection.close()
            raise
        return connection

    return dial


@asynccontextmanager
async def serving(
    directory: Path, endpoints: tuple[Endpoint[Any, Any], ...], respond: Respond
) -> AsyncGenerator[VmmServer]:
    """Serve a table at `directory/api.sock`; every request has to be one of it."""
    server = VmmServer(directory / "api.sock", endpoints, respond)
    async with listening(server.path, server.serve):
        yield server
    assert server.wrong == []


@asynccontextmanager
async def speaking(directory: Path, script: Script) -> AsyncGenerator[Dial]:
    """Have `script` speak on each connection to `directory/api.sock`; yield what dials that."""
    path = directory / "api.sock"
    async with listening(path, script):
        yield dialer(path)


@asynccontextmanager
async def listening(path: Path, speak: Script) -> AsyncGenerator[None]:
    """Have `speak` handle each connection; end those that are left. Its errors fail the test."""
    tasks: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await speak(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        except Exception as error:
            failures.append(error)
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield
    finally:
        server.close()
        for task in [*tasks]:
            task.cancel()
        if tasks:
            await asyncio.wait([*tasks])
        path.unlink(missing_ok=True)
    assert failures == []


async def _request(
    http: h11.Connection, reader: asyncio.StreamReader
) -> tuple[h11.Request, bytes] | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return head, body
        else:
            return None


async def heard(reader: asyncio.StreamReader) -> bytes:
    """Read one request, for a script; return its head."""
    head = await reader.readuntil(b"\r\n\r\n")
    if length := re.search(rb"(?i)content-length: (\d+)", head):
        await reader.readexactly(int(length[1]))
    return head
