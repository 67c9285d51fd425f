# SPDX-License-Identifier: Apache-2.0
"""The agent's client with the agent itself, compiled for this host: all that harms nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.support.agent_places import mounting, needs_root
from tests.support.agent_program import ALL, Agent, children_of, running_agent
from tests.support.changed import FRAGMENTS, changed_json
from tests.support.waiting import until

from waggle.domain.errors import TooLarge
from waggle.infra.guest.answers import AgentBusy, AgentRefused, EffectUnknown
from waggle.infra.guest.audit import Audit
from waggle.infra.guest.calls import encoded
from waggle.infra.guest.channel import over
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import METHODS
from waggle.infra.guest.protocol.programs import Status

pytestmark = pytest.mark.anyio
DOCS = Path(__file__).parents[3] / "docs"
SCHEMA: dict[str, Any] = json.loads((DOCS / "guest-agent.schema.json").read_text("utf-8"))


@contextlib.asynccontextmanager
async def talking(
    program: Path,
    directory: Path,
    *policies: Mapping[str, object],
    on_audit: Callable[[Audit], None] | None = None,
    has_successors: bool = False,
    prefix: tuple[str, ...] = (),
) -> AsyncGenerator[tuple[AgentClient, Agent]]:
    """An agent and a client of it."""
    directory.mkdir(exist_ok=True)
    with running_agent(
        program, directory, *policies, has_successors=has_successors, prefix=prefix
    ) as agent:
        wire = agent.wire.dup()
        wire.setblocking(False)
        streams = await asyncio.open_connection(sock=wire)
        client = AgentClient(over(*streams), on_audit)
        try:
            yield client, agent
        finally:
            await client.close()


@pytest.fixture
async def agent(agent_program: Path, tmp_path: Path) -> AsyncGenerator[AgentClient]:
    async with talking(agent_program, tmp_path / "policy") as (client, _):
        yield client


HARMLESS: dict[str, dict[str, object]] = {
    **{name: {} for name in METHODS if name.startswith("get_") and name != "get_process"},
    "ping": {},
    "exec_command": {"argv": ["/bin/sh", "-c", "echo out; echo err >&2; sleep 600"], "wait": False},
    "get_process": {"process": 1},
    "kill_process": {"process": 1},
    "file_write": {"path": "/tmp/FILE", "data": b"\0data"},
    "file_read": {"path": "/tmp/FILE"},
    "list_directory": {"path": "/tmp"},
    "sync_filesystems": {},
    "thaw_filesystems": {},
}
"""What may be asked on the host of a test, in this order."""


async def test_results_are_as_in_the_schema(agent: AgentClient, tmp_path: Path) -> None:
    for method, params in HARMLESS.items():
        path = str(params.get("path", "")).replace("/tmp", str(tmp_path))
        here = {**params, "path": path} if path else params
        found = await agent._channel.ask(method, encoded(method, here))
        of_it = {**SCHEMA["methods"][method]["result"], "$defs": SCHEMA["$defs"]}
        jsonschema.Draft202012Validator(of_it).validate(found)  # pyright: ignore[reportUnknownMemberType]
        METHODS[method].result.model_validate(found)
    left = {*METHODS} - {*HARMLESS}
    assert left == {"set_time", "shutdown", "reboot", "freeze_filesystems"}


async def test_the_agent_and_its_policy(agent: AgentClient) -> None:
    info = await agent.agent_info()
    assert {*info.methods} == {*METHODS}
    assert info.protocol == "1.0"
    assert info.policy.limits.requests == 16
    assert info.policy.users == ["root", "nobody"]
    await agent.ping()


async def test_the_system(agent: AgentClient) -> None:
    system = await agent.system_info()
    assert system.kernel == platform.release()
    assert system.architecture == platform.machine()
    assert system.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    assert abs(system.time - time.time_ns()) < 60 * 10**9
    assert system.cpus == os.cpu_count()
    assert "lo" in [one.name for one in (await agent.network_info()).interfaces]
    assert (await agent.disk_usage()).filesystems
    metrics = await agent.metrics()
    assert metrics.processes.total > 1
    assert metrics.memory.total_bytes > metrics.memory.available_bytes > 0
    assert "root" in [one.name for one in (await agent.users()).users]


async def test_programs(agent: AgentClient) -> None:
    done = await agent.run(["/bin/sh", "-c", "cat; echo no >&2; exit 7"], input=b"in\0put")
    assert (done.status, done.exit_code) == (Status.EXITED, 7)
    assert (done.stdout, done.stderr) == (b"in\0put", b"no\n")
    slow = await agent.run(["/bin/sleep", "600"], wait=False)
    assert slow.status == Status.RUNNING
    assert (await agent.process(slow.process)).status == Status.RUNNING
    assert (await agent.kill(slow.process)).status == Status.KILLED
    ended = await agent.run(["/bin/sleep", "600"], timeout=1)
    assert ended.status == Status.TIMED_OUT
    with pytest.raises(AgentRefused) as caught:
        await agent.process(2**31 - 1)
    assert caught.value.reason == "not_found"


async def test_a_program_that_takes_long_holds_up_nobody(agent: AgentClient) -> None:
    slow = asyncio.create_task(agent.run(["/bin/sleep", "600"], timeout=600))
    for _ in range(1_000):
        await agent.ping()
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await agent.ping()


async def test_files(agent: AgentClient, tmp_path: Path) -> None:
    path, data = tmp_path / "file", random.Random(3).randbytes(10_000_000)
    await agent.write_file(str(path), data, mode=0o640)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o7777 == 0o640
    assert await agent.read_file(str(path)) == data
    part = await agent.read_part(str(path), 5, 3)
    assert (part.data, part.end, part.size) == (data[5:8], False, len(data))
    with pytest.raises(TooLarge):
        await agent.read_file(str(path), limit=len(data) - 1)
    await agent.write_file(str(path), b"")
    assert await agent.read_file(str(path)) == b""


@needs_root
async def test_a_full_disk_is_named(agent_program: Path, tmp_path: Path) -> None:
    full, data = tmp_path / "full", random.Random(4).randbytes(3_000_000)
    prefix = mounting(f"mount('small', '{full}', 'tmpfs', 0, 'size=2000k')")
    async with talking(agent_program, tmp_path / "policy", prefix=prefix) as (client, _):
        with pytest.raises(AgentRefused, match="full/a: No space left on device") as caught:
            await client.write_file(str(full / "a"), data)
    assert caught.value.data["errno"] == "ENOSPC"


async def test_directories(agent: AgentClient, tmp_path: Path) -> None:
    directory = tmp_path / "many"
    directory.mkdir()
    names = {f"f{number}" for number in range(1_203)}
    for name in names:
        (directory / name).touch()
    (directory / "link").symlink_to("/etc")
    found = await agent.list_directory(str(directory))
    assert {one.name for one in found if one.kind.value == "file"} == names
    assert [one.name for one in found if one.kind.value == "symlink"] == ["link"]
    assert len(found) == len(names) + 1


@pytest.mark.parametrize(
    "path,reason",
    [("/nothing/here", "not_found"), ("/tmp/../etc/passwd", "invalid_params"), ("/tmp", "failed"),
     ("/proc/self/environ", "denied"), ("/dev/zero", "denied")],
)  # fmt: skip
async def test_files_that_are_refused(agent: AgentClient, path: str, reason: str) -> None:
    with pytest.raises(AgentRefused) as caught:
        await agent.read_file(path)
    assert caught.value.reason == reason, caught.value


async def test_a_policy_refuses_by_its_entry(agent_program: Path, tmp_path: Path) -> None:
    narrow: dict[str, object] = {"methods": {"allow": ["*"], "deny": ["get_users"]}, "audit": []}
    async with talking(agent_program, tmp_path / "policy", ALL, narrow) as (client, _):
        calls: list[Callable[[], Awaitable[object]]] = [
            client.users,
            lambda: client.read_file("/etc/passwd"),
            lambda: client.run(["/bin/true"]),
        ]
        for call in calls:
            with pytest.raises(AgentRefused) as caught:
                await call()
            assert caught.value.reason == "denied"
            assert caught.value.data["policy"]
        assert "get_users" not in (await client.agent_info()).methods


async def test_more_requests_than_the_policy_allows_are_told_to_try_again(
    agent_program: Path, tmp_path: Path
) -> None:
    few = {**ALL, "limits": {"requests": 2, "processes": 2}}
    async with talking(agent_program, tmp_path / "policy", few) as (client, _):
        slow = [client.run(["/bin/sleep", "1"], timeout=5) for _ in range(6)]
        ended = await asyncio.gather(*slow, return_exceptions=True)
    assert 1 <= len([one for one in ended if isinstance(one, AgentBusy)]) <= 5
    assert all(isinstance(one, AgentBusy) for one in ended if isinstance(one, BaseException))


def runs_program(agent: Agent) -> bool:
    for child in children_of(agent.process.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if children_of(child):
                return True
    return False


async def test_calls_of_a_killed_agent_end_at_once_and_unread_ones_are_the_nexts(
    agent_program: Path, tmp_path: Path
) -> None:
    async with talking(agent_program, tmp_path / "policy", has_successors=True) as (client, agent):
        lost = asyncio.create_task(client.run(["/bin/sleep", "600"], timeout=600))
        await until(lambda: runs_program(agent))
        agent.process.send_signal(signal.SIGSTOP)
        unread = asyncio.create_task(client.run(["/bin/echo", "here"], timeout=600))
        wire = client._channel._wire
        assert wire is not None
        await until(lambda: len(wire._sent) == 2)
        began = time.monotonic()
        agent.succeed()
        with pytest.raises(EffectUnknown, match="while it worked on exec_command"):
            await lost
        assert time.monotonic() - began < 3
        assert (await unread).stdout == b"here\n"
        assert (await client.agent_info()).pending == []


async def test_requests_are_noted_at_the_host(agent_program: Path, tmp_path: Path) -> None:
    heard: list[Audit] = []
    noting = {**ALL, "audit": ["port"]}
    policy = tmp_path / "policy"
    async with talking(agent_program, policy, noting, on_audit=heard.append) as (client, _):
        await client.ping()
        await client.read_file("/etc/passwd")
        with pytest.raises(AgentRefused):
            await client.read_file("/nothing")
        await until(lambda: len(heard) >= 3)
    assert [(one.method, one.outcome) for one in heard[-2:]] == [
        ("file_read", "ok"),
        ("file_read", "not_found"),
    ]
    assert "/etc/passwd" in heard[-2].subject


@pytest.mark.parametrize("lines", [2_000, pytest.param(10_000, marks=pytest.mark.fuzz, id="all")])
async def test_an_agent_answers_after_changed_lines(
    lines: int, agent_program: Path, tmp_path: Path
) -> None:
    """What the host sends does not end it; the client ignores all answers to that."""
    chance = random.Random(19)
    request: dict[str, object] = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "get_system_info",
        "params": {},
    }
    async with talking(agent_program, tmp_path / "policy") as (client, agent):
        await client.connect()
        wire = client._channel._wire
        assert wire is not None
        for count in range(lines):
            wire._writer.write(changed_json(request, chance).replace(b"\n", b" ") + b"\n")
            if count % 500 == 0:
                wire._writer.write(chance.choice(FRAGMENTS) + b"\n")
                await wire._writer.drain()
                await client.system_info()
        await wire._writer.drain()
        assert (await client.system_info()).kernel == platform.release()
        assert agent.process.poll() is None
