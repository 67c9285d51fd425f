# SPDX-License-Identifier: Apache-2.0
"""The tool read_job: it waits, reads, searches, kills and lists jobs."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from tests.support.server import ERAS, Setup, client, created, data_of, error_of, serving, text_of

from waggle.domain.toolset import Offer, Toolset

pytestmark = pytest.mark.anyio
CORE = Setup(offer=Offer(frozenset({Toolset.CORE})))


async def started(agent: Client, code: str) -> dict[str, Any]:
    environment = await created(agent)
    run = {"environment_id": environment, "code": code, "background": True}
    return {
        "environment_id": environment,
        "job_id": data_of(await agent.call_tool("execute", run))["job_id"],
    }


@pytest.mark.parametrize("era", ERAS)
async def test_read_job_waits_for_the_end_and_answers_like_execute(era: str) -> None:
    async with serving(CORE) as rig, client(rig, era) as agent:
        job = await started(agent, "echo part\nerr bad\nhang\necho rest\nexit 4")
        await rig.host.only.started.wait()
        early = data_of(await agent.call_tool("read_job", {**job, "wait_seconds": 0}))
        assert (early["status"], early["stdout"]) == ("running", "part\n")
        rig.host.only.release.set()
        ended = await agent.call_tool("read_job", {**job, "wait_seconds": 20})
        output = data_of(ended)
        assert (output["exit_code"], output["stdout"]) == (4, "part\nrest\n")
        assert output["stderr"] == "bad\n"
        assert "rest" in text_of(ended)


async def test_read_job_shows_both_streams_unless_a_part_is_asked_for() -> None:
    async with serving(CORE) as rig, client(rig) as agent:
        job = await started(agent, "echo out\nerr bad\nexit 3")
        await agent.call_tool("read_job", {**job, "wait_seconds": 20})
        shown = data_of(await agent.call_tool("read_job", job))
        assert (shown["exit_code"], shown["stdout"], shown["stderr"]) == (3, "out\n", "bad\n")
        part = await agent.call_tool("read_job", {**job, "search": "bad"})
        assert data_of(part)["note"] == 'stderr has 4 bytes: Read it with stream "stderr".'
        assert data_of(part)["note"] in text_of(part)
        named = await agent.call_tool("read_job", {**job, "search": "bad", "stream": "stderr"})
        assert data_of(named)["content"] == "0: bad"
        assert text_of(named).endswith("exited 3]")


async def test_read_job_waits_before_it_searches() -> None:
    async with serving(CORE) as rig, client(rig) as agent:
        job = await started(agent, "echo one\nhang\necho two")
        await rig.host.only.started.wait()
        rig.host.only.release.set()
        page = {**job, "wait_seconds": 20, "search": "two"}
        assert data_of(await agent.call_tool("read_job", page))["content"] == "4: two"


async def test_read_job_kills_and_lists() -> None:
    async with serving(CORE) as rig, client(rig) as agent:
        job = await started(agent, "echo part\nhang")
        await rig.host.only.started.wait()
        killed = data_of(await agent.call_tool("read_job", {**job, "kill": True}))
        assert (killed["status"], killed["stdout"]) == ("killed", "part\n")
        place = {"environment_id": job["environment_id"]}
        listed = data_of(await agent.call_tool("read_job", place))
        assert [(item["job_id"], item["status"]) for item in listed["jobs"]] == [(1, "killed")]
        refused = error_of(await agent.call_tool("read_job", {**place, "kill": True}))
        assert refused["code"] == "invalid_argument"
        assert refused["hint"].startswith("Give job_id")
