# SPDX-License-Identifier: Apache-2.0
"""The server of one stdio client: messages as lines, of all versions of MCP, until the end.

Used by `waggle.app.serving`. The SDK's own stdio transport holds a line of any length and as many
requests as the client sends; this one bounds both, and answers lines that are no messages with an
error. Knows no tools.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.to_thread
import mcp_types
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import JSONRPCError, JSONRPCMessage, JSONRPCRequest, JSONRPCResponse, RequestId

from waggle.allocator import COLLECTOR
from waggle.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    SERVER_BUSY,
    Message,
    NoMessage,
    read,
    unusable,
)
from waggle.large import LARGE, Sizes
from waggle.stdio import ENDS, Lines, TooLong, Wire
from waggle.structure import Structure, StructureRefusedError

log = structlog.get_logger(__name__)

MIB = 1 << 20
EOF_GRACE = 1.0
"""Seconds for calls in progress to end after the client closed its side."""
FOLLOW_UP_SECONDS = 1.0
"""Seconds for requests that a client makes to use the result of a call that ended in the grace.

The SDK's client looks up the schema of a result in `tools/list`, and loses the result when it
cannot."""
FLUSH_SECONDS = 1.0
"""Seconds for the last answers to reach a client that reads."""


@dataclass(frozen=True, slots=True)
class StdioLimits:
    """Bytes of one line, requests and bytes of requests in progress, seconds to finish on stop.

    A line of 31 MiB lets a file of 10 MiB through, whatever the client escapes. Only calls of
    `carriers`, the tools that take files, may have more than `ordinary` bytes.
    """

    line: int = 31 * MIB
    ordinary: int = 2 * MIB
    carriers: Collection[str] = ()
    requests: int = 64
    together: int = 128 * MIB
    grace: float = 30.0


class StoppableCalls(Protocol):
    """The tool calls in progress; see `waggle.mcp.observed`."""

    def __len__(self) -> int:
        """Return the number of calls in progress."""
        ...

    def stop(self) -> None:
        """Refuse new calls."""

    def cut(self) -> int:
        """End the calls in progress, and return their number."""
        ...

    async def finished(self) -> None:
        """Wait until no call is in progress."""


class StdioServer:
    """One connection. Run it once; it ends at the end of input, after `stop`, or when cancelled."""

    def __init__(
        self, server: Server[Any], calls: StoppableCalls, wire: Wire, limits: StdioLimits
    ) -> None:
        self._server = server
        self._calls = calls
        self._wire = wire
        self._limits = limits
        self._sizes = Sizes(limits.ordinary, limits.carriers)
        self._requests: dict[RequestId, int] = {}
        self._settled = anyio.Event()
        self._ending = anyio.Event()
        self._gone = anyio.Event()
        """The client is gone; then `_ending` is set too."""
        self._writing = anyio.Lock()

    def stop(self) -> None:
        """Begin to stop: refuse new calls, give those in progress their grace. Idempotent."""
        self._ending.set()

    async def run(self) -> None:
        """Serve until the client is gone or `stop` is complete.

        Cancels calls that are still in progress then. Raises nothing that a client can cause.
        """
        read_send, read_receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write_send, write_receive = anyio.create_memory_object_stream[SessionMessage](0)
        async with (
            read_send,
            read_receive,
            write_send,
            write_receive,
            anyio.create_task_group() as group,
        ):
            group.start_soon(self._receive, read_send)
            group.start_soon(self._send, write_receive)
            group.start_soon(self._until_end, read_send)
            options = self._server.create_initialization_options()
            await self._server.run(read_receive, write_send, options)
            group.cancel_scope.cancel()

    async def _until_end(self, inbox: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Wait for a reason to end, let calls finish, then close the SDK's input."""
        await self._ending.wait()
        if not self._gone.is_set():
            await self._drain()
        await inbox.aclose()

    async def _drain(self) -> None:
        self._calls.stop()
        log.info("draining", calls=len(self._calls), grace_seconds=self._limits.grace)
        with anyio.move_on_after(self._limits.grace):
            if len(self._calls):
                await self._calls.finished()
                with anyio.move_on_after(FOLLOW_UP_SECONDS):
                    await self._gone.wait()
        cut = self._calls.cut()
        with anyio.move_on_after(FLUSH_SECONDS):
            await self._all_answered()
        log.info("drained", calls_cut=cut)

    async def _all_answered(self) -> None:
        while self._requests:
            self._settled = anyio.Event()
            await self._settled.wait()

    async def _settle(self, number: RequestId) -> None:
        self._requests.pop(number, None)
        if not self._requests:
            self._settled.set()

    async def _receive(self, inbox: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        lines = Lines(self._limits.line)
        try:
            while data := await self._wire.read():
                for line in lines.feed(data):
                    await self._take(line, inbox)
            await self._take(lines.end(), inbox)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # the SDK's side has ended
        except OSError as error:
            log.info("client_gone", why=error.strerror)
        log.info("input_ended", requests=len(self._requests))
        with anyio.move_on_after(EOF_GRACE):
            await self._all_answered()
        self._leave()

    async def _take(
        self, line: bytes | TooLong, inbox: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        """Pass one message to the SDK, or answer with the reason for refusing it.

        Waits for a client that does not read.
        """
        if isinstance(line, TooLong):
            most = self._limits.line // MIB
            why = f"A message of {line.size} bytes is refused: at most {most} MiB are read."
            await self._refuse(line.request_id(), INVALID_REQUEST, why)
            return
        if not line.strip():
            return
        message = await self._message(line)
        if isinstance(message, NoMessage):
            await self._refuse(message.id, message.code, message.why)
            return
        if not isinstance(message, JSONRPCRequest):
            await inbox.send(SessionMessage(message))
            return
        held = sum(self._requests.values())
        if len(self._requests) >= self._limits.requests or (
            held and held + len(line) > self._limits.together
        ):
            why = f"{len(self._requests)} requests are in progress: wait for answers."
            await self._refuse(message.id, SERVER_BUSY, why)
            return
        self._requests[message.id] = len(line)
        metadata = ServerMessageMetadata(on_request_unanswered=partial(self._settle, message.id))
        await inbox.send(SessionMessage(message, metadata))

    async def _message(self, line: bytes) -> JSONRPCMessage | NoMessage:
        if len(line) <= LARGE:
            return _message(line, self._sizes)
        with COLLECTOR.stopped():
            return await anyio.to_thread.run_sync(_message, line, self._sizes)

    async def _refuse(self, number: RequestId | None, code: int, why: str) -> None:
        log.info("message_refused", code=code, why=why)
        await self._put(_error(number, code, why))

    async def _send(self, outbox: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with outbox:
            async for envelope in outbox:
                message = envelope.message
                await self._put(_encoded(message))
                if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
                    await self._settle(message.id)

    async def _put(self, message: bytes) -> None:
        """Write a line; drop it if the client is gone."""
        if self._gone.is_set():
            return
        try:
            async with self._writing:
                await self._wire.write(message + b"\n")
        except OSError as error:
            log.info("client_gone", why=error.strerror)
            self._leave()

    def _leave(self) -> None:
        self._gone.set()
        self._ending.set()


def _encoded(message: JSONRPCMessage) -> bytes:
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except ValueError:  # a result holds text that is not Unicode
        log.exception("answer_not_encodable")
        why = "The answer cannot be written as JSON."
        return _error(getattr(message, "id", None), INTERNAL_ERROR, why)


def _error(number: RequestId | None, code: int, why: str) -> bytes:
    error = {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": why}}
    return json.dumps(error).encode()


def _message(line: bytes, sizes: Sizes) -> JSONRPCMessage | NoMessage:
    """Return the message for the SDK. A request, the usual case, is parsed only once."""
    structure = Structure()
    try:
        structure.feed(line)
    except StructureRefusedError as refused:
        number = TooLong(len(line), line[:ENDS], line[-ENDS:]).request_id()
        return NoMessage(number, INVALID_REQUEST, f"The line has {refused}.")
    try:
        message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        message = None
    if isinstance(message, JSONRPCRequest):
        if why := unusable(message.method, message.params or {}):
            return NoMessage(message.id, INVALID_PARAMS, why)
        request = Message(message.method, message.id, message.params or {})
        return sizes.refusal(request, len(line)) or message
    parsed = read(line, "line")
    if isinstance(parsed, NoMessage):
        return parsed
    return message or NoMessage(
        parsed.id, INVALID_REQUEST, "The line is not a JSON-RPC 2.0 message."
    )
