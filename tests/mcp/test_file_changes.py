# SPDX-License-Identifier: Apache-2.0
"""Notices of changed files: who gets them, and that nothing is watched for nobody."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated
from tests.mcp.subscribing import Heard, session, subscribe, unsubscribe
from tests.support.guest import FakeGuest
from tests.support.server import MODERN, Rig, Setup, client, created, serving

from waggle.domain.access import Owner
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.toolset import Offer, Toolset
from waggle.mcp.uris import file_uri
from waggle.service.environments.service import CreateRequest
from waggle.service.files.watches import MAX_OF_ENVIRONMENT

pytestmark = pytest.mark.anyio


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not true():
            await anyio.lowlevel.checkpoint()


async def prepared(rig: Rig, agent: Client) -> tuple[FakeGuest, str, str]:
    """Return a guest, and the URIs of a directory and a file of it."""
    environment = await created(agent)
    guest = rig.host.guests[environment]
    await guest.write_file("/tmp/app/main.py", b"1")
    return guest, file_uri(environment, "/tmp/app"), file_uri(environment, "/tmp/app/main.py")


async def test_a_session_is_notified_of_what_changes_below_a_directory() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        guest, directory, file = await prepared(rig, agent)
        await subscribe(agent, directory)
        await subscribe(agent, file)
        guest.change("/tmp/elsewhere")
        guest.change("/tmp/app/new/other.py")
        await heard.until(lambda notices: notices == [directory])
        guest.change("/tmp/app/main.py")
        await heard.until(lambda notices: file in notices and notices.count(directory) == 2)


async def test_what_a_tool_writes_is_notified_too() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        guest, directory, _ = await prepared(rig, agent)
        await subscribe(agent, directory)
        arguments = {"path": "/tmp/app/x", "content": "1"}
        await agent.call_tool("write_file", {"environment_id": guest.environment.id, **arguments})
        await heard.until(lambda notices: notices == [directory])


async def test_many_changes_are_few_notices() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        guest, directory, _ = await prepared(rig, agent)
        await subscribe(agent, directory)
        began = anyio.current_time()
        for _ in range(500):
            guest.change("/tmp/app/main.py")
            await anyio.lowlevel.checkpoint()
        await heard.until(bool)
        assert len(heard.notices) <= 1 + anyio.current_time() - began


async def test_clients_share_a_watch_which_ends_with_the_last_of_them() -> None:
    first, second = Heard(), Heard()
    async with serving() as rig:
        async with session(rig, first) as one:
            guest, directory, _ = await prepared(rig, one)
            async with session(rig, second) as two:
                for agent in (one, one, two):
                    await subscribe(agent, directory)
                assert guest.watched == ["/tmp/app"]
                guest.change("/tmp/app/x")
                await first.until(bool)
                await second.until(bool)
                await unsubscribe(one, directory)
                assert guest.watching.keys() == {"/tmp/app"}
            await until(lambda: not guest.watching)
            await subscribe(one, directory)
            assert guest.watching.keys() == {"/tmp/app"}
            await unsubscribe(one, directory)
            await until(lambda: not guest.watching)
            await subscribe(one, directory)
        await until(lambda: not guest.watching)


async def test_a_stream_of_2026_is_notified_and_leaves_out_what_cannot_be_watched() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        guest, directory, file = await prepared(rig, agent)
        theirs = await rig.services.environments.create(
            CreateRequest(runtime=RuntimeName.SHELL), owner=Owner("somebody else")
        )
        refused = [file_uri(guest.environment.id, "/nothing"), file_uri(theirs.id, "/tmp")]
        wanted = [refused[0], directory, refused[1], file, f"{file}?offset=1"]
        async with agent.listen(resource_subscriptions=wanted) as events:
            assert events.honored.resource_subscriptions == [directory, file]
            assert rig.host.guests[theirs.id].watched == []
            guest.change("/tmp/app/new")
            with anyio.fail_after(5):
                assert await anext(events) == ResourceUpdated(directory)
                guest.change("/tmp/app/main.py")
                assert {await anext(events), await anext(events)} == {
                    ResourceUpdated(directory),
                    ResourceUpdated(file),
                }
        await until(lambda: not guest.watching)


async def test_a_stream_that_is_closed_before_it_began_leaves_no_watch() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        guest, directory, _ = await prepared(rig, agent)
        guest.watch_until = anyio.Event()
        with anyio.move_on_after(10) as scope:
            async with anyio.create_task_group() as group:

                async def listen() -> None:
                    async with agent.listen(resource_subscriptions=[directory]):
                        pass

                group.start_soon(listen)
                await until(lambda: bool(guest.watched))
                scope.cancel()
        guest.watch_until.set()
        await until(lambda: not guest.watching)
        await until(lambda: not rig.services.watches._watches)  # pyright: ignore[reportPrivateUsage]  # to look inside


@pytest.mark.parametrize("path", ["/nothing", "/tmp/app?offset=1", "/tmp/app#x"])
async def test_what_cannot_be_watched_is_refused_and_forgotten(path: str) -> None:
    async with serving() as rig, session(rig, Heard()) as agent:
        guest, directory, _ = await prepared(rig, agent)
        with pytest.raises(MCPError):
            await subscribe(agent, directory.replace("/tmp/app", path))
        await guest.write_file("/nothing", b"")
        assert guest.watching == {}
        await subscribe(agent, file_uri(guest.environment.id, "/nothing"))
        assert guest.watching.keys() == {"/nothing"}


async def test_one_too_many_is_an_error_that_says_what_to_do() -> None:
    async with serving() as rig, session(rig, Heard()) as agent:
        guest, directory, _ = await prepared(rig, agent)
        for number in range(MAX_OF_ENVIRONMENT):
            await guest.write_file(f"/tmp/{number}", b"")
            await subscribe(agent, file_uri(guest.environment.id, f"/tmp/{number}"))
        with pytest.raises(MCPError, match="Subscribe to a directory above them"):
            await subscribe(agent, directory)
        await unsubscribe(agent, file_uri(guest.environment.id, "/tmp/0"))
        await subscribe(agent, directory)


async def test_a_client_is_notified_after_a_pause() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        guest, directory, _ = await prepared(rig, agent)
        environment = {"environment_id": guest.environment.id}
        await subscribe(agent, directory)
        await agent.call_tool("pause_environment", environment)
        await until(lambda: not guest.watching)
        assert heard.notices == []
        await agent.call_tool("resume_environment", environment)
        await heard.until(lambda notices: notices == [directory])
        guest.change("/tmp/app/x")
        await heard.until(lambda notices: notices == [directory] * 2)


async def test_the_end_of_the_environment_is_notified() -> None:
    heard = Heard()
    async with serving() as rig, session(rig, heard) as agent:
        guest, directory, _ = await prepared(rig, agent)
        await subscribe(agent, directory)
        await agent.call_tool("destroy_environment", {"environment_id": guest.environment.id})
        await heard.until(lambda notices: notices == [directory])
        assert guest.watching == {}
        await unsubscribe(agent, directory)


async def test_files_are_not_watched_where_they_are_not_offered() -> None:
    few = frozenset({Toolset.ENVIRONMENTS})
    async with serving(Setup(offer=Offer(few, few))) as rig, session(rig, Heard()) as agent:
        guest, directory, _ = await prepared(rig, agent)
        with pytest.raises(MCPError, match="does not offer resources of this kind"):
            await subscribe(agent, directory)
        assert guest.watched == []
