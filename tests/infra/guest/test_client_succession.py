# SPDX-License-Identifier: Apache-2.0
"""A guest that says without end that its agent has started, or lies of what that has."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.infra.guest.succession import STARTED, agents
from tests.support.agent_peer import result
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.infra.guest.answers import AgentEnded
from waggle.infra.guest.regreeting import PACE_SECONDS

pytestmark = pytest.mark.anyio


async def test_a_flood_of_starts_leads_to_few_questions_and_calls_are_answered() -> None:
    async with agents() as (client, made):
        made.holds = False
        assert made.peer is not None
        began = time.monotonic()
        for _ in range(100):
            await made.peer.send(STARTED * 50)
            await client.ping()
        assert 2 <= made.greetings <= 2 + (time.monotonic() - began) / PACE_SECONDS
        await client.metrics()
        wire = client._channel._wire
        assert wire is not None
        assert len(wire._waiting) <= 1


async def test_a_guest_that_never_answers_a_question_is_asked_one_at_a_time() -> None:
    async with agents() as (client, made):
        made.holds = False
        assert made.peer is not None
        made.info = lambda _request: b""
        for _ in range(20):
            await made.peer.send(STARTED * 20)
            await client.ping()
            wire = client._channel._wire
            assert wire is not None
            assert len(wire._waiting) <= 1


LIES: dict[str, object] = {
    "too many": [*range(257)],
    "no list": {"a": 1},
    "missing": None,
    "true": [True],
    "a fraction": [1.5],
    "a large number": [2**63],
    "a long text": ["x" * 65],
    "a list in a list": [[1]],
}


@pytest.mark.parametrize("kind", LIES)
async def test_what_is_no_list_of_requests_ends_no_call(kind: str) -> None:
    async with agents() as (client, made):
        call = asyncio.create_task(client.sync())
        await until(lambda: len(made.has) == 1)
        made.info = lambda request: result(request, {**made.what(), "pending": LIES[kind]})
        with pytest.raises(GuestLost, match="its answer is wrong: pending"):
            await client.agent_info()
        assert not call.done()
        await made.answer()
        await call


async def test_a_guest_that_lies_of_what_it_has_harms_its_own_calls_only() -> None:
    async with agents() as (client, made), agents() as (another, others):
        mine, theirs = (asyncio.create_task(one.sync()) for one in (client, another))
        await until(lambda: len(made.has) == len(others.has) == 1)
        told = made.has[0]
        made.info = lambda request: result(request, made.what(str(told["id"]), -1, "", 2**63 - 1))
        await client.agent_info()
        with pytest.raises(AgentEnded):
            await mine
        assert not theirs.done()
        await made.answer()  # late, and of a call that has ended
        made.holds = False
        await client.users()
        made.info = lambda request: result(request, made.what(*range(256)))
        await client.agent_info()
        await others.answer()
        await theirs
