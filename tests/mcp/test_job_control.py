# SPDX-License-Identifier: Apache-2.0
"""Input and signals for jobs, and jobs of a paused environment, as an agent sees them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp import Client
from tests.support.server import ERAS, Rig, client, created, data_of, error_of, serving, text_of

from waggle.domain.programs.job import MAX_INPUT_BYTES, SIGNALS

pytestmark = pytest.mark.anyio


async def begun(rig: Rig, agent: Client, **more: Any) -> dict[str, Any]:
    """Start a program that hangs; return the arguments that name its job."""
    place = {"environment_id": await created(agent)}
    program = {"code": "echo name?\nhang", "background": True, **more}
    job = data_of(await agent.call_tool("execute", {**place, **program}))["job_id"]
    await rig.host.only.started.wait()
    return {**place, "job_id": job}


@pytest.mark.parametrize("era", ERAS)
async def test_input_is_written_to_a_job_until_it_is_closed(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        job = await begun(rig, agent, stdin_open=True)
        first = await agent.call_tool("write_job", {**job, "text": "Ada\n"})
        assert data_of(first) == {
            "job_id": 1,
            "bytes_written": 4,
            "note": "read_job shows what it prints.",
        }
        assert "4 bytes are written to the standard input of job 1." in text_of(first)
        last = await agent.call_tool("write_job", {**job, "text": "é", "close": True})
        assert (data_of(last)["bytes_written"], data_of(last)["closed"]) == (2, True)
        assert [item[1:] for item in rig.host.only.written] == [
            (b"Ada\n", False),
            ("é".encode(), True),
        ]
        late = error_of(await agent.call_tool("write_job", {**job, "text": "more"}))
        assert late["code"] == "invalid_argument"
        assert "its standard input is closed" in late["message"]


async def test_a_job_without_open_input_says_how_to_get_one() -> None:
    async with serving() as rig, client(rig) as agent:
        job = await begun(rig, agent)
        refused = error_of(await agent.call_tool("write_job", {**job, "text": "x"}))
        assert refused["code"] == "invalid_argument"
        assert "started without stdin_open" in refused["message"]
        assert "stdin_open" in refused["hint"]
        assert rig.host.only.written == []


async def test_input_is_bounded_and_text() -> None:
    async with serving() as rig, client(rig) as agent:
        job = await begun(rig, agent, stdin_open=True)
        most = {**job, "text": "x" * MAX_INPUT_BYTES}
        assert data_of(await agent.call_tool("write_job", most))["bytes_written"] == MAX_INPUT_BYTES
        over = error_of(await agent.call_tool("write_job", {**job, "text": "é" * (1 << 20)}))
        assert over["code"] == "too_large"


@pytest.mark.parametrize("name", ["INT", "sigint", " SigInt "])
async def test_signals_are_sent_by_name(name: str) -> None:
    async with serving() as rig, client(rig) as agent:
        job = await begun(rig, agent)
        sent = await agent.call_tool("kill_job", {**job, "signal": name})
        assert data_of(sent)["status"] == "running"
        read = await agent.call_tool("read_job", {**job, "signal": name, "wait_seconds": 0})
        assert data_of(read)["status"] == "running"
        assert [number for _, number in rig.host.only.signals] == [2, 2]
        assert not rig.host.only.was_cancelled.is_set()


async def test_an_unknown_signal_is_refused_with_those_there_are() -> None:
    async with serving() as rig, client(rig) as agent:
        job = await begun(rig, agent)
        for tool in ("kill_job", "read_job"):
            for name in ("9", "BOGUS", "x" * 10_000):
                refused = error_of(await agent.call_tool(tool, {**job, "signal": name}))
                assert refused["code"] == "invalid_argument"
                assert len(refused["message"]) < 100
                assert ", ".join(SIGNALS) in refused["hint"]
        assert rig.host.only.signals == []


async def test_a_job_that_has_ended_takes_no_input_and_no_signal() -> None:
    async with serving() as rig, client(rig) as agent:
        job = await begun(rig, agent, stdin_open=True)
        rig.host.only.release.set()
        await agent.call_tool("wait_job", job)
        for tool, more in (
            ("write_job", {"text": "x"}),
            ("kill_job", {"signal": "TERM"}),
            ("read_job", {"signal": "TERM"}),
        ):
            refused = error_of(await agent.call_tool(tool, {**job, **more}))
            assert refused["code"] == "job_ended"
            assert "Job 1 has ended" in refused["message"]
        assert data_of(await agent.call_tool("kill_job", job))["status"] == "exited"


async def test_a_paused_job_says_so_until_it_is_used() -> None:
    async with serving() as rig, client(rig) as agent:
        job = await begun(rig, agent, stdin_open=True)
        place = {"environment_id": job["environment_id"]}
        await agent.call_tool("pause_environment", place)
        page = await agent.call_tool("read_job", job)
        assert (data_of(page)["status"], data_of(page)["stdout"]) == ("paused", "name?\n")
        assert "[job 1: paused, " in text_of(page)
        assert "It goes on as job 1" in data_of(page)["note"]
        listed = await agent.call_tool("list_jobs", place)
        assert data_of(listed)["jobs"][0]["status"] == "paused"
        state = await agent.call_tool("get_environment", place)
        assert data_of(state)["jobs"][0]["status"] == "paused"
        assert "job 1 execute (paused" in text_of(state)
        await agent.call_tool("write_job", {**job, "text": "x"})
        assert rig.host.only.obeyed == ["pause", "unpause"]
        assert data_of(await agent.call_tool("read_job", job))["status"] == "running"


async def test_get_environment_lists_at_most_twenty_jobs_that_run() -> None:
    async with serving() as rig, client(rig) as agent:
        job = await begun(rig, agent)
        place = {"environment_id": job["environment_id"]}
        assert (
            data_of(await agent.call_tool("execute", {**place, "code": "echo"}))["exit_code"] == 0
        )
        for _ in range(15):
            await agent.call_tool("execute", {**place, "code": "hang", "background": True})
        state = data_of(await agent.call_tool("get_environment", place))
        assert state["running_jobs"] == len(state["jobs"]) == 16
        assert [item["job_id"] for item in state["jobs"]] == [*range(17, 2, -1), 1]
        assert state["jobs"][-1]["summary"] == "echo name?"


async def test_the_waiting_call_is_answered_when_its_environment_is_paused() -> None:
    async with serving() as rig, client(rig) as agent:
        place = {"environment_id": await created(agent)}
        answers: list[Any] = []

        async def wait() -> None:
            code = {**place, "code": "echo begun\nhang", "wait_seconds": 60}
            answers.append(await agent.call_tool("execute", code))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await rig.host.only.started.wait()
            async with client(rig) as other:
                await other.call_tool("pause_environment", place)
        (answer,) = answers
        assert (data_of(answer)["status"], data_of(answer)["stdout"]) == ("paused", "begun\n")
        assert "goes on as job 1 when the environment is resumed" in text_of(answer)
        assert "[job 1: paused" in text_of(answer)
