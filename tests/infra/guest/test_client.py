# SPDX-License-Identifier: Apache-2.0
"""The agent's client against an agent that works: every method, versions, files, reconnection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent_peer import (
    GOOD,
    Request,
    error,
    good,
    greeted,
    line,
    listening,
    paired,
    result,
)
from tests.support.waiting import cancelled, until

from waggle.domain.errors import GuestLost, InvalidArgument, TooLarge
from waggle.infra.guest.answers import AgentBusy, AgentRefused
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import MAX_REQUEST, METHODS, ErrorCode
from waggle.infra.guest.protocol.power import Manner

pytestmark = pytest.mark.anyio
Call = Callable[[AgentClient], Awaitable[object]]
CALLS: list[tuple[str, Call, dict[str, Any]]] = [
    ("ping", lambda a: a.ping(), {}),
    ("get_system_info", lambda a: a.system_info(), {}),
    ("get_network_info", lambda a: a.network_info(), {}),
    ("get_disk_usage", lambda a: a.disk_usage(), {}),
    ("get_metrics", lambda a: a.metrics(), {}),
    ("get_users", lambda a: a.users(), {}),
    (
        "exec_command",
        lambda a: a.run(["/bin/x"], input=b"\0", timeout=5, wait=False),
        {"argv": ["/bin/x"], "input": "AA==", "timeout": 5, "wait": False},
    ),
    ("get_process", lambda a: a.process(3), {"process": 3}),
    ("kill_process", lambda a: a.kill(3), {"process": 3}),
    ("file_read", lambda a: a.read_part("/a", 5, 1), {"path": "/a", "offset": 5, "length": 1}),
    (
        "file_write",
        lambda a: a.write_file("/a", b"\0", mode=0o600),
        {"path": "/a", "data": "AA==", "mode": 0o600},
    ),
    (
        "list_directory",
        lambda a: a.list_directory("/a"),
        {"path": "/a", "offset": 0, "limit": 1000},
    ),
    ("set_time", lambda a: a.set_time(7), {"time": 7}),
    ("shutdown", lambda a: a.shutdown(), {"manner": "graceful"}),
    ("reboot", lambda a: a.reboot(Manner.FORCED), {"manner": "forced"}),
    ("sync_filesystems", lambda a: a.sync(), {}),
    ("freeze_filesystems", lambda a: a.freeze(5, ["/"]), {"mount_points": ["/"], "timeout": 5}),
    ("thaw_filesystems", lambda a: a.thaw(), {}),
]


@pytest.mark.parametrize("method,call,params", CALLS, ids=[name for name, _, _ in CALLS])
async def test_every_method(method: str, call: Call, params: dict[str, Any]) -> None:
    async with paired() as (client, peer):
        answer = await call(client)
        assert peer.seen[-1]["method"] == method
        assert peer.seen[-1]["params"] == params
        assert {*peer.seen[-1]} == {"jsonrpc", "id", "method", "params"}
    expected = METHODS[method].result.model_validate(GOOD[method])
    if type(answer) is type(expected):
        assert answer == expected


def test_there_is_a_call_for_every_method() -> None:
    assert {name for name, _, _ in CALLS} == {*METHODS} - {"get_agent_info"}


async def test_versions_are_negotiated_once_after_an_empty_line() -> None:
    async with paired() as (client, peer):
        await asyncio.gather(client.system_info(), client.users(), client.metrics())
        assert peer.lines[0] == b"\n"
        assert [one["method"] for one in peer.seen].count("get_agent_info") == 1
        assert peer.seen[0]["params"] == {"protocol": "1.0"}


async def test_ping_needs_no_negotiation() -> None:
    async with paired() as (client, peer):
        await client.ping()
        assert [one["method"] for one in peer.seen] == ["ping"]


async def test_another_major_version_is_not_spoken_to() -> None:
    info = {**GOOD["get_agent_info"], "protocol": "2.0"}
    async with paired(lambda request: result(request, info)) as (client, peer):
        with pytest.raises(GuestLost, match=r"it speaks version 2\.0"):
            await client.users()
        assert peer.methods == []


async def test_an_agent_that_speaks_no_version_of_ours_says_which() -> None:
    def reply(request: Request) -> bytes:
        return error(request, -32005, "no such version", data={"supported": ["2.0", "3.1"]})

    async with paired(reply) as (client, _):
        with pytest.raises(AgentRefused) as caught:
            await client.users()
    assert (caught.value.reason, caught.value.data["supported"]) == ("unsupported", "2.0, 3.1")


async def test_members_that_newer_agents_add_are_dropped() -> None:
    def reply(request: Request) -> bytes:
        return result(request, {**GOOD[request["method"]], "new": {"more": [1]}})

    async with paired(reply) as (client, _):
        assert (await client.system_info()).hostname == "box"


async def test_answers_come_in_any_order() -> None:
    held: list[Request] = []

    def reply(request: Request) -> bytes:
        held.append(request)
        if len(held) < 20:
            return b""
        return b"".join(result(one, {"time": one["params"]["time"]}) for one in reversed(held))

    async with paired(greeted(reply)) as (client, _):
        await client.agent_info()
        times = range(20)
        assert await asyncio.gather(*map(client.set_time, times)) == [*times]
    assert len({one["id"] for one in held}) == 20


async def test_two_clients_never_draw_the_same_id() -> None:
    ids: set[int] = set()
    for _ in range(20):
        async with paired() as (client, peer):
            await asyncio.gather(*(client.ping() for _ in range(10)))
            ids |= {one["id"] for one in peer.seen}
    assert len(ids) == 200
    assert all(0 <= one < 2**63 for one in ids)


@pytest.mark.parametrize("code", [*ErrorCode, 7])
async def test_an_error_is_a_refusal(code: int) -> None:
    data = {"policy": "read.deny", "\x1b": "\x1b[2J", "list": ["a", 1], "x": {"y": 1}}

    def reply(request: Request) -> bytes:
        return error(request, code, "not\x1b[2J so.", data=data)

    async with paired(greeted(reply)) as (client, _):
        with pytest.raises(AgentRefused) as caught:
            await client.read_part("/a", 0)
    refusal = caught.value
    assert refusal.message == "The guest agent refused file_read: not?[2J so."
    assert refusal.number == code
    assert refusal.reason == (ErrorCode(code).name.lower() if code != 7 else "unknown")
    assert refusal.data == {
        "policy": "read.deny", "?": "?[2J", "list": "a, 1", "x": '{"y": 1}',
    }  # fmt: skip
    assert isinstance(refusal, AgentBusy) == refusal.retryable == (code == ErrorCode.BUSY)


async def test_bad_parameters_are_not_sent() -> None:
    async with paired() as (client, peer):
        with pytest.raises(InvalidArgument, match="file_read: path: "):
            await client.read_part("relative", 0)
        with pytest.raises(InvalidArgument, match=r"exec_command: argv\.0: "):
            await client.run(["a\0b"], timeout=1)
        with pytest.raises(TooLarge, match=f"over {MAX_REQUEST:,}"):
            await client.run(["/bin/x", *["y" * 32_768] * 9], timeout=1)
        await client.ping()
        assert peer.methods == ["ping"]


async def test_a_program_has_the_time_of_the_policy() -> None:
    """`seconds` of the method are for programs that are not waited for."""
    async with paired(greeted(lambda _: b"")) as (client, peer):
        running = asyncio.create_task(client.run(["/bin/x"]))
        await until(lambda: peer.methods == ["exec_command"])
        await cancelled(running)
        with pytest.raises(GuestLost, match=r"no answer within 0\.1 s"):
            await client.ping(seconds=0.1)


async def test_a_broken_connection_ends_calls_and_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    client = AgentClient(lambda: asyncio.open_unix_connection(path))
    with pytest.raises(GuestLost, match="its channel is closed"):
        await client.ping()
    hold = True

    def reply(request: Request) -> bytes:
        return b"" if hold else good(request)

    async with listening(path, greeted(reply)) as peer:
        waiting = [asyncio.create_task(client.users()) for _ in range(3)]
        await until(lambda: len(peer.methods) == 3)
        peer.hang_up()
        for one in waiting:
            with pytest.raises(GuestLost, match="its channel was closed"):
                await one
        hold = False
        await client.users()
        assert peer.connections == 2
        assert [one["method"] for one in peer.seen].count("get_agent_info") == 2
        await client.close()
        await client.close()
        await client.ping()
        assert peer.connections == 3
        await client.close()


async def test_a_socket_pair_is_not_made_again() -> None:
    async with paired() as (client, peer):
        await client.ping()
        peer.hang_up()
        for _ in range(3):
            with pytest.raises(GuestLost, match=r"its channel (is|was) closed"):
                await client.ping()


async def test_a_client_that_is_closed_ends_its_calls() -> None:
    async with paired(lambda _: b"") as (client, peer):
        waiting = asyncio.create_task(client.ping())
        await until(lambda: peer.methods == ["ping"])
        await client.close()
        with pytest.raises(GuestLost):
            await waiting


async def test_a_host_that_is_killed_100_times_leaves_an_agent_that_answers(
    tmp_path: Path,
) -> None:
    """Each time in the middle of a line; the next host begins with an empty one."""
    path = tmp_path / "agent.sock"
    async with listening(path) as peer:
        for _ in range(100):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b"\n" + line({"jsonrpc": "2.0", "id": 1, "method": "ping"}))
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        client = AgentClient(lambda: asyncio.open_unix_connection(path))
        assert (await client.system_info()).hostname == "box"
        await client.close()
        assert peer.lines
