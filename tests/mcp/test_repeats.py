# SPDX-License-Identifier: Apache-2.0
"""Idempotency keys across calls, sessions, eras and servers."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tests.support.server import (
    ERAS,
    LEGACY,
    MODERN,
    Setup,
    client,
    created,
    data_of,
    error_of,
    serving,
    text_of,
)

from waggle.domain.toolset import ALL_TOOLSETS, Toolset
from waggle.mcp.observed import REPEATED_META_KEY, fingerprint

pytestmark = pytest.mark.anyio
PYTHON = {"runtime": "python", "idempotency_key": "make-1"}


@pytest.mark.parametrize("era", ERAS)
async def test_a_create_is_done_once_in_any_session(era: str) -> None:
    async with serving() as rig:
        ids: set[str] = set()
        for again in (False, True, True):
            async with client(rig, LEGACY if again else era) as agent:
                result = await agent.call_tool("create_environment", PYTHON)
                ids.add(data_of(result)["environment_id"])
                assert dict(result.meta or {}).get(REPEATED_META_KEY, False) is again
        assert len(ids) == len(rig.host.guests) == 1


async def test_a_repeated_result_is_marked_even_if_its_machine_is_gone() -> None:
    setup = Setup()
    async with serving(setup) as rig, client(rig) as agent:
        first = await agent.call_tool("create_environment", PYTHON)
        assert "first call" not in text_of(first)
    async with serving(setup) as rig, client(rig, MODERN) as agent:
        again = await agent.call_tool("create_environment", PYTHON)
        assert data_of(again) == data_of(first)  # its machine ended with the server
        assert again.content[:-1] == first.content
        assert text_of(again).endswith(
            "\nThis is the result of the first call with this idempotency_key; nothing was done "
            "again. list_environments shows whether it is still there."
        )


async def test_the_note_on_a_repeated_result_names_only_offered_tools() -> None:
    async with (
        serving(Setup(toolsets=ALL_TOOLSETS - {Toolset.JOBS, Toolset.CORE})) as rig,
        client(rig) as agent,
    ):
        run = {"environment_id": await created(agent), "code": "echo 1", "idempotency_key": "r"}
        _, again = [await agent.call_tool("execute", run) for _ in range(2)]
        assert text_of(again).endswith("idempotency_key; nothing was done again.")


@pytest.mark.parametrize("tool, what", [("execute", "code"), ("run_command", "command")])
async def test_a_program_runs_once_and_its_result_is_the_same(tool: str, what: str) -> None:
    async with serving() as rig, client(rig) as agent:
        arguments: dict[str, Any] = {"environment_id": await created(agent), what: "exit 3"}
        keyed = {**arguments, "idempotency_key": "run-1"}
        first, second = [data_of(await agent.call_tool(tool, keyed)) for _ in range(2)]
        assert first == second
        assert len(rig.host.only.commands) == 1
        await agent.call_tool(tool, arguments)
        assert len(rig.host.only.commands) == 2
        other = await agent.call_tool(tool, {**keyed, what: "exit 4"})
        assert error_of(other)["code"] == "idempotency_key_reused"


async def test_a_result_outlives_the_server_and_a_refusal_is_not_kept() -> None:
    setup = Setup()
    async with serving(setup) as rig, client(rig) as agent:
        bad = {"runtime": "perl", "idempotency_key": "k"}
        assert error_of(await agent.call_tool("create_environment", bad))
        environment = await created(agent)
        run = {"environment_id": environment, "code": "echo 1", "idempotency_key": "r"}
        first = data_of(await agent.call_tool("execute", run))
    async with serving(setup) as rig, client(rig, MODERN) as agent:
        assert data_of(await agent.call_tool("execute", run)) == first
        good = {"runtime": "python", "idempotency_key": "k"}
        assert data_of(await agent.call_tool("create_environment", good))


async def test_two_calls_at_once_make_one_environment() -> None:
    setup = Setup()
    setup.host.hold = hold = anyio.Event()
    async with serving(setup) as rig, client(rig) as first, client(rig, MODERN) as second:
        ids: list[str] = []

        async def call(agent: Any) -> None:
            result = await agent.call_tool("create_environment", PYTHON)
            ids.append(data_of(result)["environment_id"])

        async with anyio.create_task_group() as group:
            group.start_soon(call, first)
            group.start_soon(call, second)
            await setup.host.creating.wait()
            hold.set()
        assert len(set(ids)) == len(rig.host.guests) == 1


@pytest.mark.parametrize("key", ["", "a b", "\n", "é", "x" * 129])
async def test_a_bad_key_is_refused(key: str) -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"runtime": "python", "idempotency_key": key}
        result = await agent.call_tool("create_environment", arguments)
        assert error_of(result)["code"] == "invalid_argument"
        assert not rig.host.guests


def test_the_digest_of_a_call_depends_on_all_but_the_key() -> None:
    one = fingerprint("t", {"a": 1, "b": [2]})
    assert one == fingerprint("t", {"b": [2], "a": 1, "idempotency_key": "k"})
    assert one != fingerprint("u", {"a": 1, "b": [2]})
    assert one != fingerprint("t", {"a": 1, "b": [3]})


async def test_a_restart_forgets_no_key_and_runs_nothing_twice() -> None:
    async with serving() as rig, client(rig) as agent:
        box = {
            "environment_id": data_of(await agent.call_tool("create_environment", PYTHON))[
                "environment_id"
            ]
        }
        run = {**box, "code": "echo 1", "idempotency_key": "r"}
        ran = data_of(await agent.call_tool("execute", run))
        await agent.call_tool("restart_environment", box)
        assert data_of(await agent.call_tool("execute", run)) == ran
        made = data_of(await agent.call_tool("create_environment", PYTHON))
        assert made["environment_id"] == box["environment_id"]
        assert len(rig.host.guests) == 1
        assert rig.host.only.commands == []  # nothing ran in the machine of now


async def test_what_a_restart_ended_does_not_run_again_under_its_key() -> None:
    async with serving() as rig, client(rig) as agent, client(rig, MODERN) as other:
        here = {"environment_id": await created(agent)}
        run = {**here, "code": "hang", "idempotency_key": "r"}
        errors: list[dict[str, Any]] = []

        async def call() -> None:
            errors.append(error_of(await agent.call_tool("execute", run)))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await rig.host.only.started.wait()
            await other.call_tool("restart_environment", here)
        assert errors[0]["code"] == "ended_by_restart"
        again = await other.call_tool("execute", run)
        assert error_of(again) == errors[0]
        assert "idempotency_key; nothing was done again." in text_of(again)
        assert rig.host.only.commands == []
        await agent.call_tool("execute", {**run, "code": "echo 1", "idempotency_key": "s"})
        assert len(rig.host.only.commands) == 1
