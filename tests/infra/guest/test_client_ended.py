# SPDX-License-Identifier: Apache-2.0
"""Calls under way when their agent ends and another one starts: they end by that, not by time."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.infra.guest.succession import STARTED, Agents, agents
from tests.support.agent_peer import GOOD, Request, error, good, paired, result
from tests.support.waiting import cancelled, until

from waggle.infra.guest.answers import AgentEnded, AgentRefused, EffectUnknown
from waggle.infra.guest.channel import MAX_WAITING
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import METHODS, Again

pytestmark = pytest.mark.anyio
SOON = 1.0
"""Seconds. The deadlines of the calls are 30."""
PARAMS = {"process": 1, "path": "/a", "data": b"", "time": 1, "argv": ["/x"]}


def called(client: AgentClient, method: str) -> asyncio.Task[object]:
    wanted = METHODS[method].params.model_fields
    given = {name: value for name, value in PARAMS.items() if name in wanted}
    return asyncio.create_task(client.call(method, METHODS[method].result, given))


def methods(again: Again) -> list[str]:
    return [
        name for name, one in METHODS.items() if one.again is again and name != "get_agent_info"
    ]


@pytest.mark.parametrize("method", methods(Again.ANEW))
async def test_what_may_have_been_done_is_said_to_be_unknown(method: str) -> None:
    async with agents() as (client, made):
        call = called(client, method)
        await until(lambda: len(made.has) == 1)
        began = time.monotonic()
        await made.die()
        with pytest.raises(EffectUnknown) as caught:
            await call
        assert time.monotonic() - began < SOON
        assert caught.value.message == (
            f"The guest agent ended while it worked on {method}; "
            "it is unknown whether that took effect."
        )
        assert not caught.value.retryable
        assert made.peer is not None
        assert made.peer.methods == [method]


@pytest.mark.parametrize("method", methods(Again.SAME))
async def test_what_may_be_done_again_is_left_to_the_caller(method: str) -> None:
    async with agents() as (client, made):
        call = called(client, method)
        await until(lambda: len(made.has) == 1)
        began = time.monotonic()
        await made.die()
        with pytest.raises(AgentEnded) as caught:
            await call
        assert time.monotonic() - began < SOON
        assert (
            str(caught.value) == f"The guest agent ended while it worked on {method}. Call again."
        )
        assert (type(caught.value), caught.value.retryable) == (AgentEnded, True)
        assert made.peer is not None
        assert made.peer.methods == [method]


@pytest.mark.parametrize("method", methods(Again.ASKS))
async def test_what_changes_nothing_is_asked_a_second_time(method: str) -> None:
    async with agents() as (client, made):
        call = called(client, method)
        await until(lambda: len(made.has) == 1)
        made.holds = False
        await made.die()
        assert await call == METHODS[method].result.model_validate(GOOD[method])
        assert made.peer is not None
        assert made.peer.methods == [method] * 2


async def test_what_changes_nothing_is_not_asked_a_third_time() -> None:
    async with agents() as (client, made):
        call = asyncio.create_task(client.metrics())
        for _ in range(2):
            await until(lambda: len(made.has) == 1)
            await made.die()
        with pytest.raises(AgentEnded, match="get_metrics"):
            await call


async def test_a_call_that_the_next_agent_has_is_answered_by_it() -> None:
    """As when it was still unread in the port."""
    async with agents() as (client, made):
        lost = asyncio.create_task(client.sync())
        await until(lambda: len(made.has) == 1)
        made.has.clear()
        kept = asyncio.create_task(client.set_time(10**18))
        await until(lambda: len(made.has) == 1)
        assert made.peer is not None
        await made.peer.send(STARTED)
        with pytest.raises(AgentEnded):
            await lost
        assert not kept.done()
        await made.answer()
        assert await kept == 10**18


async def test_a_call_that_was_sent_after_the_question_is_not_judged_by_its_answer() -> None:
    async with agents() as (client, made):
        asked = made.keep_questions()
        lost = asyncio.create_task(client.sync())
        await until(lambda: len(made.has) == 1)
        await made.die()
        await until(lambda: len(asked) == 1)
        later = asyncio.create_task(client.set_time(10**18))
        await until(lambda: len(made.has) == 1)
        assert made.peer is not None
        await made.peer.send(result(asked[0], made.what()))
        with pytest.raises(AgentEnded):
            await lost
        await made.answer()
        assert await later == 10**18


async def test_a_call_that_waits_to_be_sent_is_not_judged_either() -> None:
    async with agents() as (client, made):
        asked = made.keep_questions()
        wire = client._channel._wire
        assert wire is not None
        async with wire._turn:  # as while a guest does not read
            info = asyncio.create_task(client.agent_info())
            await until(lambda: len(wire._waiting) == 1)
            later = asyncio.create_task(client.set_time(10**18))
            await until(lambda: len(wire._waiting) == 2)
        await until(lambda: len(asked) == len(made.has) == 1)
        assert made.peer is not None
        await made.peer.send(result(asked[0], made.what()))
        await info
        await made.answer()
        assert await later == 10**18


async def test_an_agent_that_ends_while_versions_are_negotiated_costs_one_more_question() -> None:
    made = Agents()
    made.holds = False
    asked: list[Request] = []

    def silent(request: Request) -> bytes:
        asked.append(request)
        return b""

    made.info = silent
    async with paired(made) as (client, made.peer):
        call = asyncio.create_task(client.users())
        await until(lambda: len(asked) == 1)
        made.info = made.tell
        began = time.monotonic()
        await made.peer.send(STARTED)
        assert (await call).users
        assert time.monotonic() - began < SOON


async def test_an_agent_that_ends_before_it_has_said_what_it_has_is_followed_by_another() -> None:
    async with agents() as (client, made):
        made.info = lambda _request: b""
        call = asyncio.create_task(client.sync())
        await until(lambda: len(made.has) == 1)
        began = time.monotonic()
        await made.die()
        await until(lambda: made.greetings == 2)
        made.info = made.tell
        await made.die()
        with pytest.raises(AgentEnded):
            await call
        assert time.monotonic() - began < 3 * SOON


async def test_an_agent_that_is_busy_is_asked_again() -> None:
    async with agents() as (client, made):
        call = asyncio.create_task(client.sync())
        await until(lambda: len(made.has) == 1)

        def busy(request: Request) -> bytes:
            made.info = made.tell
            return error(request, -32004)

        made.info = busy
        await made.die()
        with pytest.raises(AgentEnded):
            await call


async def test_an_agent_is_asked_though_as_many_calls_as_there_may_be_wait() -> None:
    async with agents() as (client, made):
        calls = [asyncio.create_task(client.sync()) for _ in range(2 * MAX_WAITING)]
        await until(lambda: len(made.has) == MAX_WAITING)
        await made.die()
        for call in calls[:MAX_WAITING]:
            with pytest.raises(AgentEnded):
                await call
        await until(lambda: len(made.has) == MAX_WAITING)  # the others have their turn
        await made.answer()
        await asyncio.gather(*calls[MAX_WAITING:])


async def test_an_agent_of_another_version_is_not_spoken_to() -> None:
    async with agents() as (client, made):
        made.holds = False
        await client.users()
        made.info = lambda request: error(request, -32005, "1.0 is not supported")
        await made.die()
        await until(lambda: made.greetings == 2)
        await until(lambda: not client._channel.greeted)
        with pytest.raises(AgentRefused, match="refused get_agent_info"):
            await client.users()


async def test_an_answer_that_is_there_counts_whatever_is_said_of_it() -> None:
    async with agents() as (client, made):
        call = asyncio.create_task(client.sync())
        await until(lambda: len(made.has) == 1)
        made.info = lambda request: good(made.has[0]) + result(request, made.what())
        await client.agent_info()
        await call


async def test_a_call_that_was_given_up_is_not_ended_once_more() -> None:
    async with agents() as (client, made):
        call = asyncio.create_task(client.sync())
        await until(lambda: len(made.has) == 1)
        await cancelled(call)
        await made.die()
        await until(lambda: made.greetings == 2)
        made.holds = False
        await client.users()


async def test_a_client_that_is_closed_asks_nobody(nothing_left: None) -> None:
    async with agents() as (client, made):
        made.info = lambda _request: b""
        await made.die()
        await until(lambda: made.greetings == 2)
        await client.close()
        assert client._regreeting._serving is not None
        assert client._regreeting._serving.done()
