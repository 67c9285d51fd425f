# SPDX-License-Identifier: Apache-2.0
"""One stdio client, good, bad or gone, over real pipes; the machines are fakes."""

from __future__ import annotations

import fcntl
import json
from typing import Any

import anyio
import pytest
from tests.stdio.peer import Peer, call, serving
from tests.support.fakes import FakeHost
from tests.support.server import MODERN, Setup, request
from tests.support.waiting import until

from waggle.stdio.server import MIB, StdioLimits

pytestmark = pytest.mark.anyio
TEN_MIB = 10 * MIB


async def environment(peer: Peer) -> str:
    made = await peer.call(2, "create_environment", runtime="shell")
    return made["structuredContent"]["environment_id"]


async def hanging(peer: Peer, number: int, host: FakeHost) -> None:
    """Start a call that lasts until `host.only.release` is set."""
    made = await environment(peer)
    await peer.send(call(number, "execute", environment_id=made, code="hang"))
    await host.only.started.wait()


async def test_a_session_of_the_2025_protocol() -> None:
    async with serving() as peer:
        await peer.start()
        made = await environment(peer)
        done = await peer.call(3, "execute", environment_id=made, code="echo hello")
        assert done["structuredContent"]["stdout"] == "hello\n"


async def test_the_protocol_of_2026() -> None:
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    async with serving() as peer:
        await peer.send(request("server/discover", {"_meta": meta}, number=1))
        assert MODERN in (await peer.answer(1))["result"]["supportedVersions"]
        params: dict[str, Any] = {"name": "list_environments", "arguments": {}, "_meta": meta}
        await peer.send(request("tools/call", params, number=2))
        assert (await peer.answer(2))["result"]["structuredContent"].get("count", 0) == 0


@pytest.mark.parametrize(
    "line, number, code",
    [
        (b"what is this", None, -32700),
        (b'{"jsonrpc": "2.0", "id": 1, "method"', None, -32700),
        (b'"\xff\xfe"', None, -32700),
        (b"[" * 100_000, None, -32600),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', None, -32600),
        (b'{"id": 5, "method": "ping"}', 5, -32600),
        (b'{"jsonrpc": "1.0", "id": "a", "method": "ping"}', "a", -32600),
        (b"5", None, -32600),
        (b'{"jsonrpc": "2.0"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": 5, "method": "ping", "params": []}', 5, -32600),
        (b'{"jsonrpc": "2.0", "id": {"a": 1}, "method": "ping"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": 1e400, "method": "ping"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": 5, "method": "ping", "params": {"a": "\\ud800"}}', 5, -32700),
    ],
)
async def test_a_malformed_message_is_refused_and_the_next_is_served(
    line: bytes, number: object, code: int
) -> None:
    async with serving() as peer:
        await peer.start()
        await peer.write(line + b"\n\r\n\n")
        refused = await peer.message()
        assert (refused["id"], refused["error"]["code"]) == (number, code)
        await peer.send(request("ping", number=9))
        assert (await peer.answer(9))["result"] == {}


async def test_a_line_that_is_too_long_is_refused_with_its_id() -> None:
    async with serving(limits=StdioLimits(line=MIB)) as peer:
        await peer.start()
        await peer.send(call(7, "write_file", path="/tmp/x", content="x" * (2 * MIB)))
        error = (await peer.answer(7))["error"]
        assert error["code"] == -32600
        assert "at most 1 MiB" in error["message"]
        await peer.send(request("ping", number=9))
        await peer.answer(9)


async def test_ten_mebibytes_are_written_in_one_call() -> None:
    host = FakeHost()
    async with serving(Setup(host=host)) as peer:
        await peer.start()
        made = await environment(peer)
        text = "\u00fc" * (TEN_MIB // 2)
        written = await peer.call(
            3, "write_file", environment_id=made, path="/tmp/big", content=text
        )
        assert not written.get("isError"), written
        assert host.only.files["/tmp/big"].data == text.encode()


async def test_a_client_that_does_not_read_is_bounded() -> None:
    """Requests are refused while 4 wait for it; reading pauses while refusals wait, too."""
    numbers = range(100, 600)  # more than pipes of one page and the server hold
    async with serving(limits=StdioLimits(requests=4)) as peer:
        for pipe in (peer.wire.source, peer.wire.target):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        await peer.start()
        sent = 0
        answers = list[dict[str, Any]]()
        async with anyio.create_task_group() as group:

            async def flood() -> None:
                nonlocal sent
                for number in numbers:
                    await peer.send(request("tools/list", number=number))
                    sent = number

            group.start_soon(flood)
            before = -1
            while before != sent:  # until the pipe is full
                before = sent
                await anyio.sleep(0.2)
            assert sent < numbers[-1]
            assert len(peer.server._requests) <= 4
            answers.extend([await peer.message() for _ in numbers])
        codes = {answer["error"]["code"] for answer in answers if "error" in answer}
        assert codes <= {-32000}
        assert {answer["id"] for answer in answers} == {*numbers}
        await peer.send(request("ping", number=9))
        await peer.answer(9)


async def test_a_cancelled_call_ends_in_the_guest_and_frees_its_place() -> None:
    host = FakeHost()
    async with serving(Setup(host=host), StdioLimits(requests=1)) as peer:
        await peer.start()
        await hanging(peer, 5, host)
        await peer.send(request("ping", number=6))
        assert (await peer.answer(6))["error"]["code"] == -32000
        cancel: Any = {"method": "notifications/cancelled", "params": {"requestId": 5}}
        await peer.send({"jsonrpc": "2.0", **cancel})
        await host.only.was_cancelled.wait()
        await until(lambda: not peer.server._requests)
        await peer.send(request("ping", number=7))
        assert (await peer.answer(7))["result"] == {}


async def test_a_stopping_server_refuses_new_calls_and_lets_old_ones_end() -> None:
    host = FakeHost()
    async with serving(Setup(host=host)) as peer:
        await peer.start()
        await hanging(peer, 5, host)
        peer.server.stop()
        await until(lambda: peer.calls.stopping)
        refused = await peer.call(6, "list_environments")
        assert refused["isError"]
        assert "shutting down" in refused["content"][0]["text"]
        assert refused["_meta"]["waggle/error"]["code"] == "shutting_down"
        assert refused["_meta"]["waggle/error"]["retryable"]
        host.only.release.set()
        assert (await peer.answer(5))["result"]["structuredContent"]["exit_code"] == 0
        with anyio.fail_after(10):
            await peer.ended.wait()


async def test_tools_can_be_listed_after_the_last_call() -> None:
    """The SDK's client lists them if it has not yet, and loses the result if it cannot."""
    host = FakeHost()
    async with serving(Setup(host=host)) as peer:
        await peer.start()
        await hanging(peer, 5, host)
        peer.server.stop()
        await until(lambda: peer.calls.stopping)
        host.only.release.set()
        await peer.answer(5)
        await peer.send(request("tools/list", number=6))
        assert (await peer.answer(6))["result"]["tools"]
        peer.hang_up()
        with anyio.fail_after(10):
            await peer.ended.wait()


async def test_a_call_that_outlasts_the_grace_period_gets_a_reason() -> None:
    host = FakeHost()
    async with serving(Setup(host=host), StdioLimits(grace=0.05)) as peer:
        await peer.start()
        await hanging(peer, 5, host)
        peer.server.stop()
        cut = (await peer.answer(5))["result"]
        assert cut["isError"]
        assert "had to stop this call" in cut["content"][0]["text"]
        with anyio.fail_after(10):
            await peer.ended.wait()
        assert host.only.cancelled


async def test_the_server_answers_and_then_ends_with_its_input() -> None:
    async with serving() as peer:
        await peer.start()
        await peer.write(json.dumps(call(5, "list_environments")).encode())  # no line end
        peer.hang_up()
        assert not (await peer.answer(5))["result"]["isError"]
        with anyio.fail_after(10):
            await peer.ended.wait()


@pytest.mark.parametrize("gone", ["input", "output", "both"])
async def test_the_calls_of_a_client_that_is_gone_are_cancelled(gone: str) -> None:
    host = FakeHost()
    async with serving(Setup(host=host)) as peer:
        await peer.start()
        await hanging(peer, 5, host)
        if gone != "input":
            await peer.send(request("ping", number=6))
            peer.go_deaf()
            if gone == "output":
                await peer.send(*(request("ping", number=number) for number in range(10, 14)))
        if gone != "output":
            peer.hang_up()
        with anyio.fail_after(10):
            await peer.ended.wait()
        assert host.only.cancelled
