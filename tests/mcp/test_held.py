# SPDX-License-Identifier: Apache-2.0
"""Calls of 2026-07-28 that return a form: who may go on with them, and how they end otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import (
    CallToolResult,
    ElicitResult,
    InputRequiredResult,
    InputResponses,
)
from tests.support.asking import Person, Request, connecting
from tests.support.owners import ANN, BOB, guarded
from tests.support.server import (
    LEGACY,
    MODERN,
    Rig,
    Setup,
    client,
    created,
    error_of,
    mcp_server,
    serving,
    text_of,
)
from tests.support.waiting import until

from waggle.domain.errors import NotFound
from waggle.domain.network.questions import Answer
from waggle.mcp.held import MOST_ALONE, Held
from waggle.service.environments.questions import Questions

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def agents(*tokens: str) -> AsyncGenerator[tuple[Rig, list[Client]]]:
    setup = connecting(guarded() if tokens else Setup(), Questions())
    async with serving(setup) as rig, anyio.create_task_group():
        if len(tokens) < 2:
            async with client(rig, MODERN, token="".join(tokens), person=Person()) as one:
                yield rig, [one]
        else:
            async with (
                client(rig, MODERN, token=tokens[0], person=Person()) as one,
                client(rig, MODERN, token=tokens[1], person=Person()) as other,
            ):
                yield rig, [one, other]


async def call(
    agent: Client, arguments: dict[str, Any], state: str | None = None, **answers: str
) -> CallToolResult | InputRequiredResult:
    """Call run_command as a client that handles forms itself."""
    responses: InputResponses = {
        key.replace("_", "-"): ElicitResult(action="accept", content={"answer": answer})
        for key, answer in answers.items()
    }
    return await agent.session.call_tool(
        "run_command",
        arguments,
        input_responses=responses or None,
        request_state=state,
        allow_input_required=True,
    )


async def form(agent: Client, arguments: dict[str, Any]) -> tuple[str, list[str]]:
    """Call, and return the state and the keys of the form."""
    result = await call(agent, arguments)
    assert isinstance(result, InputRequiredResult)
    return str(result.request_state), [*(result.input_requests or {})]


def connect(environment: str, *places: str, **more: object) -> dict[str, Any]:
    return {"environment_id": environment, "command": ["connect", *places], **more}


def final(result: CallToolResult | InputRequiredResult) -> CallToolResult:
    assert isinstance(result, CallToolResult)
    return result


async def test_the_same_call_with_the_state_goes_on_with_its_program() -> None:
    async with agents() as (rig, (agent,)):
        arguments = connect(await created(agent), "a.example", "b.example")
        state, keys = await form(agent, arguments)
        assert keys == ["network-1"]
        second = await call(agent, arguments, state, network_1="once")
        assert isinstance(second, InputRequiredResult)
        assert [*(second.input_requests or {})] == ["network-2"]
        result = final(await call(agent, arguments, second.request_state, network_2="no"))
        assert "a.example:443 yes\nb.example:443 a person" in text_of(result)
        assert len(rig.host.only.commands) == 1


async def test_a_state_works_for_its_call_and_owner_alone_and_once() -> None:
    async with agents(ANN, BOB) as (rig, (ann, bob)):
        arguments = connect(await created(ann), "a.example")
        state, _ = await form(ann, arguments)
        stranger = final(await call(bob, arguments, state, network_1="once"))
        assert error_of(stranger)["code"] == "not_found"
        other = {**arguments, "command": ["connect", "b.example"]}
        for given, wrong in ((other, state), (arguments, "forged")):
            with pytest.raises(MCPError, match="requestState"):
                await call(ann, given, wrong, network_1="once")
        assert "yes" in text_of(final(await call(ann, arguments, state, network_1="once")))
        again = final(await call(ann, arguments, state, network_1="once"))
        assert error_of(again)["code"] == "not_found"
        assert len(rig.host.only.commands) == 1


async def test_of_two_requests_with_one_state_one_waits() -> None:
    async with agents() as (_, (agent,)):
        arguments = connect(await created(agent), "a.example")
        state, _ = await form(agent, arguments)
        codes = list[str]()

        async def wait() -> None:
            result = final(await call(agent, arguments, state))
            codes.append(error_of(result)["code"])
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
        assert codes == ["busy"]


async def test_a_request_without_an_answer_waits_for_it_still() -> None:
    async with agents() as (_, (agent,)):
        arguments = connect(await created(agent), "a.example")
        state, _ = await form(agent, arguments)
        with anyio.move_on_after(0.3) as waiting:
            await call(agent, arguments, state, network_7="once", other="once")
        assert waiting.cancelled_caught  # and hanging up ends the call
        code = "busy"
        while code == "busy":
            code = error_of(final(await call(agent, arguments, state, network_1="once")))["code"]
        assert code == "not_found"


async def test_hanging_up_before_and_after_a_question_kills_the_program() -> None:
    for places in (["a.example", "hang"], ["hang"]):
        async with agents() as (rig, (agent,)):
            arguments = connect(await created(agent), *places)
            state = (await form(agent, arguments))[0] if len(places) > 1 else None
            with anyio.move_on_after(0.2):
                await call(agent, arguments, state)
            with anyio.fail_after(5):
                await rig.host.only.was_cancelled.wait()


async def test_cancelling_within_a_session_withdraws_the_question() -> None:
    person = Person([None])
    async with (
        serving(connecting(Setup(), Questions())) as rig,
        client(rig, LEGACY, person=person) as agent,
    ):
        environment = await created(agent)
        arguments = connect(environment, "a.example", "hang")
        async with anyio.create_task_group() as group:
            group.start_soon(agent.call_tool, "run_command", arguments)
            await person.asked.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await rig.host.only.was_cancelled.wait()
            await person.cancelled.wait()
        assert rig.services.questions.desk(environment).is_quiet


async def test_a_repeat_with_the_key_waits_for_the_call_that_asks() -> None:
    async with agents() as (rig, (agent,)):
        arguments = connect(await created(agent), "a.example", idempotency_key="one")
        state, _ = await form(agent, arguments)
        results = list[str]()

        async def repeat() -> None:
            results.append(text_of(final(await call(agent, arguments))))

        async def answer() -> None:
            result = final(await call(agent, arguments, state, network_1="once"))
            results.insert(0, text_of(result))

        async with anyio.create_task_group() as group:
            group.start_soon(repeat)
            group.start_soon(answer)
        assert len([text for text in results if "a.example:443 yes" in text]) == 2
        assert "nothing was done again" in "".join(results)
        assert len(rig.host.only.commands) == 1


async def test_destroying_the_environment_ends_the_call_that_asks() -> None:
    async with agents() as (rig, (agent,)):
        environment = await created(agent)
        state, _ = await form(agent, connect(environment, "a.example"))
        await agent.call_tool("destroy_environment", {"environment_id": environment})
        result = final(await call(agent, connect(environment, "a.example"), state))
        assert result.is_error or "killed" in text_of(result)
        assert rig.host.only.dead.is_set()


async def test_a_server_that_stops_ends_calls_that_nobody_waits_for() -> None:
    setup = connecting(Setup(), Questions())
    async with (
        mcp_server(setup) as server,
        Client(server, mode=MODERN, elicitation_callback=Person()) as agent,
    ):
        await form(agent, connect(await created(agent), "a.example", "hang"))
        assert len(server.calls) == 0
        server.calls.cut()
        with anyio.fail_after(5):
            await setup.host.only.was_cancelled.wait()


async def test_a_call_that_nobody_comes_back_for_ends() -> None:
    questions, ended = Questions(seconds=0.3), anyio.Event()
    held = Held(questions, lambda question: question.environment_id, linger=0.1)

    async def work(ctx: Any) -> CallToolResult:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(questions.serve, "here", ctx.asker.put)
                await questions.ask("here", "a.example", 443)
                await anyio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError("it goes on")

    result = await held.run("ann", cast("Any", Request()), work)
    assert isinstance(result, InputRequiredResult)
    with anyio.fail_after(5):
        await ended.wait()
    assert len(held) == 0
    with pytest.raises(NotFound, match="too late"):
        await held.run("ann", cast("Any", Request(result.request_state)), work)


async def test_an_owner_has_few_calls_that_nobody_waits_for() -> None:
    questions, ended = Questions(), list[int]()
    held = Held(questions, lambda question: question.environment_id)

    async def begin(number: int, owner: str) -> str:
        async def work(ctx: Any) -> CallToolResult:
            async with anyio.create_task_group() as group:
                group.start_soon(questions.serve, f"{owner}-{number}", ctx.asker.put)
                try:
                    await questions.ask(f"{owner}-{number}", "a.example", 443)
                finally:
                    ended.append(number)
                group.cancel_scope.cancel()
            return CallToolResult(content=[])

        result = await held.run(owner, cast("Any", Request()), work)
        assert isinstance(result, InputRequiredResult)
        return str(result.request_state)

    others = await begin(99, "bob")
    states = [await begin(number, "ann") for number in range(MOST_ALONE + 2)]
    await until(lambda: ended == [0, 1])
    assert len(held) == MOST_ALONE + 1
    with pytest.raises(NotFound):
        await held.run("ann", cast("Any", Request(states[0])), cast("Any", None))
    with pytest.raises(NotFound):
        await held.run("ann", cast("Any", Request(others)), cast("Any", None))
    answers: InputResponses = {
        "network-1": ElicitResult(action="accept", content={"answer": str(Answer.ONCE)})
    }
    result = await held.run("bob", cast("Any", Request(others, answers)), cast("Any", None))
    assert isinstance(result, CallToolResult)
    held.close()
    await until(lambda: len(ended) == MOST_ALONE + 3)
    assert len(held) == 0
