# SPDX-License-Identifier: Apache-2.0
"""Contexts as an agent sees them: execute with a context, and what it says when that is lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from mcp import Client
from mcp_types import CallToolResult
from tests.support.displays import record
from tests.support.fake_contexts import runtimes
from tests.support.server import (
    ERAS,
    Rig,
    Setup,
    client,
    created,
    data_of,
    error_of,
    serving,
    text_of,
)

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.programs.context import MAX_CONTEXTS

pytestmark = pytest.mark.anyio


class Agent:
    """A client with one environment."""

    def __init__(self, rig: Rig, caller: Client, environment: str) -> None:
        self.rig, self.caller, self.environment = rig, caller, environment

    async def call(self, tool: str, **arguments: object) -> CallToolResult:
        return await self.caller.call_tool(tool, {"environment_id": self.environment, **arguments})

    async def run(self, code: str, context: str | None = "main", **more: object) -> CallToolResult:
        given = {"language": "python", **more} | ({"context": context} if context else {})
        return await self.call("execute", code=code, **given)


@pytest.fixture(params=ERAS)
async def agent(request: pytest.FixtureRequest) -> AsyncGenerator[Agent]:
    async with serving(Setup(runtimes=runtimes())) as rig, client(rig, request.param) as caller:
        yield Agent(rig, caller, await created(caller))


def diagnosis(result: CallToolResult) -> dict[str, Any]:
    content = cast("dict[str, Any]", result.structured_content or {})
    return content.get("diagnosis", {})


async def test_code_that_waits_for_its_turn_says_so_and_has_no_end_yet(agent: Agent) -> None:
    first = await agent.run("hang", wait_seconds=0.05)
    assert "ends_at" in data_of(first)
    second = await agent.run("set x 1", wait_seconds=0.05)
    assert "ends_at" not in data_of(second)
    for shown in (data_of(second)["note"], text_of(second)):
        assert "It waits for its turn: read_job waits for its end" in shown
    job = {"job_id": data_of(second)["job_id"], "wait_seconds": 5}
    agent.rig.host.only.release.set()
    assert data_of(await agent.call("read_job", **job))["status"] == "exited"


async def test_variables_stay_and_the_last_value_is_in_the_output(agent: Agent) -> None:
    assert data_of(await agent.run("set x 41")) == {"job_id": 2, "status": "exited", "exit_code": 0}
    result = await agent.run("get x")
    assert data_of(result)["stdout"] == "41\n"
    assert text_of(result) == "41\n[job 3: exit 0]"
    assert data_of(await agent.run("get x", None))["exit_code"] == 1
    assert data_of(await agent.run("get x", ""))["exit_code"] == 1


async def test_displays_of_a_cell_are_shown(agent: Agent) -> None:
    guest = agent.rig.host.only
    calling = await agent.run("set x 1\nhang", wait_seconds=0.01)
    await guest.started.wait()
    job = data_of(calling)["job_id"]
    shown = list(guest.kept.values())[-1].job
    shown.streams.display.feed(record({"text/plain": "<Thing>"}, 0))
    guest.release.set()
    assert data_of(await agent.call("wait_job", job_id=job))["stdout"] == "<Thing>\n"


async def test_code_that_fails_keeps_its_context(agent: Agent) -> None:
    await agent.run("set x 1")
    result = await agent.run("get y")
    assert (data_of(result)["exit_code"], data_of(result)["stderr"]) == (1, "y is not defined\n")
    assert "diagnosis" not in data_of(result)
    assert data_of(await agent.run("get x"))["exit_code"] == 0


async def test_a_timeout_says_that_the_context_is_kept(agent: Agent) -> None:
    result = await agent.run("set x 1\ntimeout")
    assert error_of(result)["code"] == "timeout"
    assert diagnosis(result)["code"] == "interrupted"
    assert "was interrupted after" in text_of(result)
    assert "the variables of the python context main are kept" in text_of(result)
    assert "was killed" not in text_of(result)
    assert data_of(await agent.run("get x"))["stdout"] == "1\n"


async def test_a_timeout_that_is_ignored_says_that_the_variables_are_lost(agent: Agent) -> None:
    result = await agent.run("ignore\ntimeout")
    assert error_of(result)["code"] == "timeout"
    assert diagnosis(result)["code"] == "context_ended"
    assert "was killed after" in text_of(result)
    assert "did not react to an interrupt" in text_of(result)


async def test_an_exit_says_that_the_next_call_starts_a_new_one(agent: Agent) -> None:
    result = await agent.run("quit 3")
    assert (data_of(result)["status"], data_of(result)["exit_code"]) == ("exited", 3)
    found = diagnosis(result)
    assert found["code"] == "context_ended"
    assert "it exited with code 3" in found["cause"]
    assert found["next_step"] == "The next call with this context starts a new one."
    assert f"context_ended: {found['cause']}" in text_of(result)


async def test_a_crash_for_want_of_memory_says_so(agent: Agent) -> None:
    agent.rig.host.only.diagnosis = Diagnosis("out_of_memory", "Out of memory.", "Do less.")
    result = await agent.run("crash SIGKILL")
    assert (data_of(result)["status"], data_of(result)["signal"]) == ("signaled", "SIGKILL")
    assert "(Out of memory), and its variables are lost" in diagnosis(result)["cause"]
    assert diagnosis(result)["next_step"].startswith("Do less. The next call")


async def test_a_kill_says_what_became_of_the_context(agent: Agent) -> None:
    await agent.run("set x 1")
    job = data_of(await agent.run("hang", wait_seconds=0.01))["job_id"]
    await agent.rig.host.only.started.wait()
    result = await agent.call("kill_job", job_id=job)
    assert (data_of(result)["status"], diagnosis(result)["code"]) == ("killed", "interrupted")
    assert "interrupted: The code was interrupted; the variables" in text_of(result)
    assert data_of(await agent.run("get x"))["stdout"] == "1\n"
    job = data_of(await agent.run("ignore\nhang", wait_seconds=0.01))["job_id"]
    (context,) = agent.rig.host.only.contexts.values()
    with anyio.fail_after(10):
        while not context.ignores:
            await anyio.lowlevel.checkpoint()
    result = await agent.call("read_job", job_id=job, kill=True)
    assert (data_of(result)["status"], diagnosis(result)["code"]) == ("killed", "context_ended")


async def test_the_context_is_a_job_that_can_be_killed(agent: Agent) -> None:
    await agent.run("set x 1")
    listed = data_of(await agent.call("list_jobs"))["jobs"]
    assert (listed[0]["tool"], listed[0]["summary"], listed[0]["status"]) == (
        "context",
        "python main",
        "running",
    )
    assert data_of(await agent.call("kill_job", job_id=1))["status"] == "killed"
    assert data_of(await agent.run("get x"))["exit_code"] == 1


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/tmp", "a/b", "..", " ", "x" * 33, "x" * 10_240, "a\nb", "\0"]
)
async def test_a_wrong_name_is_refused_with_a_short_answer(agent: Agent, name: str) -> None:
    result = await agent.run("set x 1", name)
    error = error_of(result)
    assert error["code"] == "invalid_argument"
    assert "cannot be the name of a context" in error["message"]
    assert "Use 1 to 32 letters" in error["hint"]
    assert len(text_of(result)) < 400
    assert data_of(await agent.call("list_jobs")).get("jobs", []) == []


async def test_a_ninth_context_is_refused_and_the_others_are_named(agent: Agent) -> None:
    for number in range(MAX_CONTEXTS):
        await agent.run("set x 1", f"c{number}")
    result = await agent.run("set x 1", "one-more")
    assert error_of(result)["code"] == "too_many_jobs"
    assert "python c7 (job 15)" in text_of(result)
    assert "end one with read_job" in text_of(result)
    assert data_of(await agent.run("get x", "c7"))["exit_code"] == 0


async def test_other_languages_have_contexts_of_their_own(agent: Agent) -> None:
    await agent.run("set x 1")
    assert data_of(await agent.run("get x", language="shell"))["exit_code"] == 1
    assert data_of(await agent.run("get x", language="javascript"))["exit_code"] == 1
    argvs = [kept.command.argv for kept in agent.rig.host.only.kept.values()]
    assert [argv[1] for argv in argvs[::2]] == [
        "/.waggle/runners/context.py",
        "/.waggle/runners/context.sh",
        "/.waggle/runners/context.js",
    ]


async def test_root_has_contexts_of_its_own(agent: Agent) -> None:
    await agent.run("set x 1")
    assert data_of(await agent.run("get x", user="root"))["exit_code"] == 1
    users = [kept.command.user for kept in agent.rig.host.only.kept.values()]
    assert users == ["sandbox", "sandbox", "root", "root"]


async def test_an_interpreter_without_a_driver_is_named() -> None:
    async with serving(Setup(runtimes=runtimes("pypy3"))) as rig, client(rig) as caller:
        result = await Agent(rig, caller, await created(caller)).run("set x 1")
        assert error_of(result)["code"] == "invalid_argument"
        assert "no contexts for pypy3" in text_of(result)
        assert "Leave context out" in text_of(result)


async def test_a_client_that_hangs_up_leaves_the_context(agent: Agent) -> None:
    await agent.run("set x 1")
    with anyio.move_on_after(0.2):
        await agent.run("hang")
    guest = agent.rig.host.only
    await guest.was_cancelled.wait()
    result = await agent.call("wait_job", job_id=3)
    assert (data_of(result)["status"], diagnosis(result)["code"]) == ("killed", "interrupted")
    assert data_of(await agent.run("get x"))["stdout"] == "1\n"
