# SPDX-License-Identifier: Apache-2.0
"""Jobs as an agent sees them, through the real client, in both eras."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest
from mcp import Client
from tests.support.server import ERAS, Setup, client, created, data_of, error_of, serving, text_of

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.programs import Command, ExecutionResult, Streams

pytestmark = pytest.mark.anyio

SOON = {"wait_seconds": 0.01}


async def running(
    agent: Client, code: str = "echo part\nhang\necho rest\nexit 4"
) -> dict[str, Any]:
    """Start a program that hangs, and return the arguments that name its job."""
    environment = await created(agent)
    arguments = {"environment_id": environment, "code": code, **SOON}
    result = await agent.call_tool("execute", arguments)
    output = data_of(result)
    assert output["status"] == "running"
    assert "exit_code" not in output
    assert f"[job {output['job_id']}: running, until {output['ends_at']} at" in text_of(result)
    assert output["note"].startswith("read_job waits for its end")
    assert output["note"] in text_of(result)
    return {"environment_id": environment, "job_id": output["job_id"]}


@pytest.mark.parametrize("era", ERAS)
async def test_a_program_that_outlasts_its_call_is_awaited_in_another(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        job = await running(agent)
        await rig.host.only.started.wait()
        again = await agent.call_tool("wait_job", {**job, **SOON})
        assert (data_of(again)["status"], data_of(again)["stdout"]) == ("running", "part\n")
        rig.host.only.release.set()
        output = data_of(await agent.call_tool("wait_job", job))
        assert (output["status"], output["exit_code"]) == ("exited", 4)
        assert output["stdout"] == "part\nrest\n"


@pytest.mark.parametrize("era", ERAS)
async def test_a_job_survives_its_client(era: str) -> None:
    async with serving() as rig:
        async with client(rig, era) as agent:
            job = await running(agent)
        async with client(rig, era) as agent:
            listed = data_of(
                await agent.call_tool("list_jobs", {"environment_id": job["environment_id"]})
            )
            (item,) = listed["jobs"]
            assert (item["status"], item["tool"], item["summary"]) == (
                "running",
                "execute",
                "echo part",
            )
            killed = await agent.call_tool("kill_job", job)
            assert data_of(killed)["status"] == "killed"
            assert "[job 1: killed]" in text_of(killed)
            assert data_of(await agent.call_tool("kill_job", job))["status"] == "killed"
        assert len(rig.host.only.cancelled) == 1


async def test_a_background_call_returns_at_once_and_a_wait_may_be_cancelled() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        guest = rig.host.only

        async def server(_command: object, _into: object) -> Any:
            guest.started.set()
            await guest.release.wait()

        guest.programs["serve"] = server
        arguments = {"environment_id": environment, "command": ["serve"], "background": True}
        job = data_of(await agent.call_tool("run_command", arguments))["job_id"]
        await guest.started.wait()
        with anyio.move_on_after(0.05):
            await agent.call_tool("wait_job", {"environment_id": environment, "job_id": job})
        listed = await agent.call_tool("list_jobs", {"environment_id": environment})
        assert f"{job} run_command (running): serve" in text_of(listed)


async def test_a_cancelled_call_ends_its_program() -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"environment_id": await created(agent), "code": "hang"}
        async with anyio.create_task_group() as group:
            group.start_soon(agent.call_tool, "execute", arguments)
            await rig.host.only.started.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(2):
            await rig.host.only.was_cancelled.wait()


async def test_a_cancelled_installation_continues_and_a_repeated_call_joins_it() -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"environment_id": await created(agent), "packages": "six"}
        guest, hold = rig.host.only, anyio.Event()

        async def install(command: Command, into: Streams) -> ExecutionResult:
            guest.started.set()
            await hold.wait()
            return await guest.interpret(command, into)

        guest.programs["install"] = install
        async with anyio.create_task_group() as group:
            group.start_soon(agent.call_tool, "install_packages", arguments)
            await guest.started.wait()
            group.cancel_scope.cancel()
        waited = await agent.call_tool("install_packages", {**arguments, "wait_seconds": 0.01})
        assert (data_of(waited)["status"], data_of(waited)["job_id"]) == ("running", 1)
        assert "job 1: running" in text_of(waited)
        hold.set()
        done = data_of(await agent.call_tool("install_packages", arguments))
        assert (done["status"], done["exit_code"]) == ("exited", 0)
        assert done["job_id"] in (1, 2)  # job 1 may have ended before the repeated call


async def test_output_is_read_in_parts_and_searched() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        code = "echo begin\nflood 300000\necho \necho ERROR here\nerr warning"
        arguments = {"environment_id": environment, "code": code}
        result = await agent.call_tool("execute", arguments)
        output = data_of(result)
        assert output["stdout_bytes_cut"] > 0
        assert len(output["stdout"]) + len(output["stderr"]) <= 24_000
        assert f"[all of it: {output['stdout_uri']}]" in text_of(result)
        assert output["note"] in text_of(result)
        where = re.fullmatch(
            r"The part that was cut: read_job with job_id 1, offset (\d+)\.", output["note"]
        )
        assert where
        assert output["stdout"].index("\n[... ") == int(where[1])
        job = {"environment_id": environment, "job_id": output["job_id"]}
        first = data_of(await agent.call_tool("read_job", {**job, "limit": 20_000}))
        assert first["content"].startswith("begin\nxxx")
        assert (first["next_offset"], first["size"]) == (20_000, 300_018)
        found = data_of(await agent.call_tool("read_job", {**job, "search": "ERROR"}))
        assert found["content"] == "300007: ERROR here"
        last = data_of(await agent.call_tool("read_job", {**job, "offset": -5}))
        assert (last["content"], last["offset"]) == ("here\n", 300_013)
        assert "next_offset" not in last
        err = data_of(await agent.call_tool("read_job", {**job, "stream": "stderr"}))
        assert err["content"] == "warning\n"


@pytest.mark.parametrize(
    "tool, arguments, code",
    [
        ("wait_job", {"job_id": 7}, "job_not_found"),
        ("read_job", {"job_id": 7}, "job_not_found"),
        ("kill_job", {"job_id": 7}, "job_not_found"),
        ("wait_job", {"job_id": 0}, "job_not_found"),
        ("read_job", {"job_id": 1, "stream": "stdin"}, "invalid_argument"),
        ("read_job", {"job_id": 1, "limit": 0}, "invalid_argument"),
        ("read_job", {"job_id": 1, "search": "x" * 201}, "invalid_argument"),
        ("wait_job", {"job_id": 1, "wait_seconds": -1}, "invalid_argument"),
        ("wait_job", {"job_id": 1, "wait_seconds": 301}, "invalid_argument"),
        ("execute", {"code": "echo", "wait_seconds": 1e9}, "invalid_argument"),
        ("run_command", {"command": " "}, "invalid_argument"),
        ("run_command", {"command": "ls", "user": "nobody"}, "invalid_argument"),
    ],
)
async def test_a_mistake_is_refused_with_a_hint(
    tool: str, arguments: dict[str, Any], code: str
) -> None:
    async with serving() as rig, client(rig) as agent:
        environment = {"environment_id": await created(agent)}
        error = error_of(await agent.call_tool(tool, {**environment, **arguments}))
        assert error["code"] == code
        assert error["hint"]
        assert rig.host.only.commands == []


async def test_a_lost_job_is_an_error_with_its_cause() -> None:
    async with serving() as rig, client(rig) as agent:
        job = await running(agent, "hang\ndie")
        rig.host.only.release.set()
        result = await agent.call_tool("wait_job", job)
        assert error_of(result)["code"] == "guest_lost"
        assert "killed by signal 9" in text_of(result)


async def test_progress_of_a_waiting_call_has_the_last_line() -> None:
    heard: list[str | None] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        assert (progress, total) == (0.02 * (len(heard) + 1), None)
        heard.append(message)
        rig.host.only.release.set()

    async with serving(Setup(heartbeat=0.02)) as rig, client(rig) as agent:
        code = "echo first\necho second\x1b[31m\nhang"
        arguments = {"environment_id": await created(agent), "code": code}
        await agent.call_tool("execute", arguments, progress_callback=listen)
        assert heard[0] == "running: second, 0.02 s"


async def test_a_failed_program_is_a_result_with_a_diagnosis() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        rig.host.only.diagnosis = Diagnosis(
            "disk_full", "The disk is full.", "Delete \x1b[1m files."
        )
        arguments = {"environment_id": environment, "code": "exit 3"}
        result = await agent.call_tool("execute", arguments)
        assert not result.is_error
        cleaned = "Delete \ufffd[1m files."
        assert data_of(result)["diagnosis"] == {
            "code": "disk_full",
            "cause": "The disk is full.",
            "next_step": cleaned,
        }
        assert text_of(result).splitlines()[-1] == f"disk_full: The disk is full. {cleaned}"
        good = await agent.call_tool("execute", {**arguments, "code": "echo x"})
        assert "diagnosis" not in data_of(good)


@pytest.mark.parametrize("era", ERAS)
async def test_a_program_left_running_is_reported_listed_and_killed(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        environment = await created(agent)
        code = {"environment_id": environment, "code": "leave python3 -m http.server\nexit 2"}
        result = await agent.call_tool("execute", code)
        left = {"pid": 100, "command": "python3 -m http.server"}
        assert data_of(result)["left_running"] == [left]
        assert "1 program still runs: 100 python3 -m http.server" in text_of(result)
        listed = await agent.call_tool("list_jobs", {"environment_id": environment})
        assert data_of(listed)["left_running"] == [{**left, "job_id": 1}]
        line = "left running: pid 100 of job 1: python3 -m http.server"
        assert line in text_of(listed)
        shown = await agent.call_tool("get_environment", {"environment_id": environment})
        assert line in text_of(shown)
        job = {"environment_id": environment, "job_id": data_of(result)["job_id"]}
        killed = await agent.call_tool("kill_job", job)
        assert "still runs" not in text_of(killed)
        assert "left_running" not in data_of(killed)
        code["code"] = "leave worker"
        for _ in range(2):
            await agent.call_tool("execute", code)
        by_pid = {"environment_id": environment, "pid": 100}
        read = await agent.call_tool("read_job", by_pid)
        assert [item["job_id"] for item in data_of(read)["left_running"]] == [3]
        again = await agent.call_tool("read_job", by_pid)
        assert "No call has left a program 100 running" in error_of(again)["message"]
        by_job = {"environment_id": environment, "job_id": 3, "kill": True}
        await agent.call_tool("read_job", by_job)
        listed = await agent.call_tool("list_jobs", {"environment_id": environment})
        assert "left_running" not in data_of(listed)
