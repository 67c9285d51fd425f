# SPDX-License-Identifier: Apache-2.0
"""Notices of changes: by subscription in sessions of 2025, by a stream in 2026-07-28."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import (
    ResourcesCapability,
)
from tests.mcp.subscribing import Heard, session, subscribe, unsubscribe
from tests.support.displays import record
from tests.support.server import MODERN, Rig, client, created, data_of, raw, request, serving

from waggle.domain.access import Owner
from waggle.domain.programs import ExecutionResult
from waggle.domain.programs.job import StreamName
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.resources.changes import Changes
from waggle.mcp.resources.subscriptions import MAX_SUBSCRIPTIONS
from waggle.mcp.uris import displays_uri, output_uri
from waggle.service.environments.service import CreateRequest

pytestmark = pytest.mark.anyio


async def talking(rig: Rig, agent: Client) -> tuple[str, Any]:
    """Start a program that prints what it is sent; return its stdout's URI and the sending end."""
    environment = await created(agent)
    guest = rig.host.guests[environment]
    lines, said = anyio.create_memory_object_stream[bytes](100)

    async def program(_command: object, into: Any) -> ExecutionResult:
        guest.started.set()
        with said:
            async for line in said:
                into.stdout.feed(line)
        kept = into.stdout.output(), into.stderr.output()
        return ExecutionResult(*kept, exit_code=0, signal=None, timed_out=False, duration=0.1)

    guest.programs["talk"] = program
    arguments = {"environment_id": environment, "command": ["talk"], "background": True}
    job = data_of(await agent.call_tool("run_command", arguments))["job_id"]
    uri = output_uri(environment, job, StreamName.STDOUT)
    await guest.started.wait()
    return str(uri), lines


def changes_of(rig: Rig) -> Changes:
    """Return the server's `Changes`, one of the listeners of this rig's jobs."""
    listeners = rig.services.jobs._listeners  # pyright: ignore[reportPrivateUsage]  # to look inside
    owners = [cast("Any", listener).__self__ for listener in listeners]
    return next(owner for owner in owners if isinstance(owner, Changes))


def is_empty(changes: Changes) -> bool:
    """Whether nobody watches anything any more."""
    kept = {name: value for name, value in vars(changes).items() if name != "_files"}
    return kept == {"_watched": {}, "_lists": {}, "_watchers": set()}


async def test_a_session_is_notified_of_output_at_a_limited_rate() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        uri, lines = await talking(rig, agent)
        await subscribe(agent, uri)
        began = time.monotonic()
        for _ in range(50):
            lines.send_nowait(b"line\n")
        await heard.until(lambda notices: uri in notices)
        before = len(heard.notices)
        lines.close()
        await heard.until(lambda notices: len(notices) > before)
        assert len(heard.notices) < 3 + time.monotonic() - began
        (content,) = (await agent.read_resource(uri)).contents
        assert dict(content.meta or {})["waggle/page"]["size"] == 250


async def test_a_session_is_notified_of_displays_while_the_program_runs() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        environment = await created(agent)
        guest = rig.host.guests[environment]
        code = {"environment_id": environment, "code": "hang", "background": True}
        job = data_of(await agent.call_tool("execute", code))["job_id"]
        uri = displays_uri(environment, job)
        await subscribe(agent, uri)
        await guest.started.wait()
        (kept,) = guest.kept.values()
        assert kept.streams is not None
        for count in (1, 2):
            kept.streams.display.feed(record({"text/plain": f"chart {count}"}))
            await heard.until(lambda notices, count=count: notices.count(uri) == count)
            (content,) = (await agent.read_resource(uri)).contents
            assert len(json.loads(cast("Any", content).text)["displays"]) == count
        guest.release.set()
        await heard.until(lambda notices: notices == [uri] * 3)
        with pytest.raises(MCPError):
            await subscribe(agent, f"{uri}/1")


async def test_a_session_is_notified_of_an_environment_and_its_end() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        offered = agent.server_capabilities.resources
        assert offered == ResourcesCapability(subscribe=True, list_changed=True)
        await agent.list_resources()
        uri, lines = await talking(rig, agent)
        environment = uri.partition("/executions")[0]
        await heard.until(lambda notices: notices == ["list"])
        await subscribe(agent, environment)
        await subscribe(agent, uri)
        lines.close()
        await heard.until(lambda notices: {environment, uri} < {*notices})
        await agent.call_tool("destroy_environment", {"environment_id": environment[-36:]})
        await heard.until(
            lambda notices: notices.count(environment) == 2 and notices.count("list") == 2
        )
        with pytest.raises(MCPError):
            await subscribe(agent, environment)


async def test_a_session_is_notified_of_the_death_of_an_idle_machine() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        environment = await created(agent)
        uri = f"waggle://environments/{environment}"
        await agent.list_resources()
        await subscribe(agent, uri)
        rig.host.only.die("killed by signal 9")
        await heard.until(lambda notices: set(notices) == {"list", uri})
        (content,) = (await agent.read_resource(uri)).contents
        assert json.loads(cast("Any", content).text)["status"] == "error"
        # The subscription is kept until the environment is destroyed.
        await agent.call_tool("destroy_environment", {"environment_id": environment})
        await heard.until(lambda notices: notices.count(uri) == 2)


async def test_a_session_is_notified_of_a_failed_destroy_and_of_the_reaper() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        environment = await created(agent)
        uri = f"waggle://environments/{environment}"
        await subscribe(agent, uri)
        rig.host.only.destroy_error = OSError("stuck")
        failed = await agent.call_tool("destroy_environment", {"environment_id": environment})
        assert failed.is_error
        await heard.until(lambda notices: notices == [uri])
        rig.host.only.destroy_error = None
        assert await rig.services.environments.retire(environment)
        await heard.until(lambda notices: notices == [uri] * 2)


async def test_a_stream_of_2026_is_notified_of_a_death() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        uri = f"waggle://environments/{await created(agent)}"
        async with agent.listen(
            resources_list_changed=True, resource_subscriptions=[uri]
        ) as events:
            rig.host.only.die()
            with anyio.fail_after(5):
                notices = {await anext(events), await anext(events)}
            assert notices == {ResourceUpdated(uri), ResourcesListChanged()}


async def test_no_notice_is_sent_after_unsubscribing() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        uri, lines = await talking(rig, agent)
        other = uri.replace("stdout", "stderr")
        await subscribe(agent, uri)
        await subscribe(agent, other)
        await unsubscribe(agent, uri)
        await unsubscribe(agent, uri)
        lines.send_nowait(b"line\n")
        lines.close()
        await heard.until(lambda notices: other in notices)
    assert heard.notices == [other]


@pytest.mark.parametrize("uri", ["waggle://environments/{}/files/tmp/x", "{}?offset=1", "x", ""])
async def test_a_resource_that_cannot_be_watched_is_refused(uri: str) -> None:
    async with serving() as rig, session(rig, Heard()) as agent:
        stream, lines = await talking(rig, agent)
        lines.close()
        wanted = uri.format(stream if uri.startswith("{") else stream[22:58])
        with pytest.raises(MCPError):
            await subscribe(agent, wanted)


async def test_the_subscriptions_of_a_session_are_limited_and_end_with_it() -> None:
    async with serving() as rig:
        changes = changes_of(rig)
        async with session(rig, Heard()) as agent:
            environment = await created(agent)
            arguments = {"environment_id": environment, "code": "exit 0"}
            uri = ""
            for number in range(1, MAX_SUBSCRIPTIONS // 2 + 1):
                job = data_of(await agent.call_tool("execute", arguments))["job_id"]
                uri = output_uri(environment, job, StreamName.STDOUT)
                assert uri.endswith(f"/{number}/stdout")
                await subscribe(agent, uri)
                await subscribe(agent, uri.replace("stdout", "stderr"))
            await subscribe(agent, uri)
            with pytest.raises(MCPError, match="100 subscriptions"):
                await subscribe(agent, f"waggle://environments/{environment}")
            (watcher,) = changes.watchers
            assert len(watcher) == MAX_SUBSCRIPTIONS
        with anyio.fail_after(5):
            while changes.watchers:
                await anyio.lowlevel.checkpoint()
        assert is_empty(changes)


async def test_bare_http_without_a_session_cannot_subscribe() -> None:
    async with serving() as rig, client(rig) as agent, raw(rig) as http:
        environment = await created(agent)
        message = request("resources/subscribe", {"uri": f"waggle://environments/{environment}"})
        answer = (await http.post("/mcp", json=message)).json()
        assert "Only a session can subscribe" in answer["error"]["message"]


async def test_a_stream_of_2026_is_notified_only_of_its_owners_resources() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        theirs = await rig.services.environments.create(
            CreateRequest(runtime=RuntimeName.SHELL), owner=Owner("somebody else")
        )
        uri, lines = await talking(rig, agent)
        foreign = f"waggle://environments/{theirs.id}"
        async with agent.listen(
            resources_list_changed=True, resource_subscriptions=[uri, foreign, "x"]
        ) as events:
            assert events.honored.resource_subscriptions == [uri]
            await rig.services.environments.destroy(theirs.id, owner=Owner("somebody else"))
            lines.send_nowait(b"line\n")
            with anyio.fail_after(5):
                assert await anext(events) == ResourceUpdated(uri)
                lines.close()
                await agent.call_tool("destroy_environment", {"environment_id": uri[22:58]})
                later: set[object] = set()
                while len(later) < 2:
                    later.add(await anext(events))
            assert later == {ResourceUpdated(uri), ResourcesListChanged()}
        changes = changes_of(rig)
        with anyio.fail_after(5):
            while changes.watchers:
                await anyio.lowlevel.checkpoint()
        assert is_empty(changes)


async def test_an_open_stream_does_not_keep_a_server_from_stopping() -> None:
    async with (
        serving() as rig,
        client(rig, MODERN) as agent,
        agent.listen(resources_list_changed=True),
    ):
        with anyio.fail_after(5):
            assert await rig.web.endpoint.drain(60) == 0
