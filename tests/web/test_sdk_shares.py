# SPDX-License-Identifier: Apache-2.0
"""Two owners over real HTTP: one owner's full use costs the other nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from tests.support.owners import ANN, BOB, Tokens
from tests.support.server import (
    INITIALIZE,
    MODERN,
    NOW,
    Setup,
    bearer,
    client,
    created,
    data_of,
    error_of,
    raw,
    serving,
)

from waggle.service.environments.creating import Pausing
from waggle.service.programs.starting import MAX_RUNNING
from waggle.web.access import AccessRules
from waggle.web.sdk import SessionLimits

pytestmark = pytest.mark.anyio
HANGS = {"code": "hang", "background": True}
SNAPSHOTS_OF_ONE = 3
"""The value that `tests.support.server` sets."""


async def test_an_owners_paused_environments_cost_the_other_nothing() -> None:
    """Ann pauses 20. This used to refuse bob's pause and to destroy his idle environment."""
    now = NOW
    setup = Setup(
        access=AccessRules(Tokens()),
        several_owners=True,
        max_environments=6,
        pausing=Pausing(when_idle=True, max_on_disk=20),
        clock=lambda: now,
    )
    async with (
        serving(setup) as rig,
        client(rig, MODERN, token=ANN) as ann,
        client(rig, MODERN, token=BOB) as bob,
    ):
        idle, his = await created(bob), await created(bob)
        kept = {"environment_id": idle, "path": "kept", "content": "for hours"}
        await bob.call_tool("write_file", kept)
        for _ in range(20):
            to_disk = {"environment_id": await created(ann), "to_disk": True}
            assert data_of(await ann.call_tool("pause_environment", to_disk))["on_disk_until"]
        to_disk = {"environment_id": await created(ann), "to_disk": True}
        refused = error_of(await ann.call_tool("pause_environment", to_disk))
        assert refused["code"] == "quota_exceeded"
        assert "Owner ann has 20 of the 20 environments paused to disk" in refused["message"]

        paused = await bob.call_tool("pause_environment", {"environment_id": his, "to_disk": True})
        assert data_of(paused)["on_disk_until"]
        now += timedelta(minutes=30)
        assert await rig.services.environments.retire(idle) == "paused"
        read = {"environment_id": idle, "path": "kept"}
        assert data_of(await bob.call_tool("read_file", read))["content"] == "for hours"


async def test_an_owners_jobs_and_snapshots_cost_the_other_nothing() -> None:
    """Ann has 16 jobs in each of half of the environments, and all snapshots of one owner."""
    setup = Setup(access=AccessRules(Tokens()), several_owners=True, max_environments=4)
    async with (
        serving(setup) as rig,
        client(rig, MODERN, token=ANN) as ann,
        client(rig, MODERN, token=BOB) as bob,
    ):
        places = [{"environment_id": await created(ann)} for _ in range(2)]
        for place in places:
            begun = await _until_refused(ann, "execute", {**place, **HANGS})
            assert begun == (MAX_RUNNING, "too_many_jobs")
        more = await ann.call_tool("create_environment", {})
        assert error_of(more)["code"] == "quota_exceeded", "no third one for 16 more"
        kept = await _until_refused(ann, "snapshot_environment", places[0])
        assert kept == (SNAPSHOTS_OF_ONE, "quota_exceeded")

        his = [{"environment_id": await created(bob)} for _ in range(2)]
        assert data_of(await bob.call_tool("execute", {**his[0], **HANGS}))["job_id"]
        assert data_of(await bob.call_tool("snapshot_environment", his[0]))["snapshot_id"]
        hers = data_of(await ann.call_tool("list_snapshots", {}))["snapshots"]
        assert len(hers) == SNAPSHOTS_OF_ONE, "bob's is not among them"


async def _until_refused(of: Client, tool: str, arguments: dict[str, Any]) -> tuple[int, str]:
    """Repeat a call until it is refused; return how often it succeeded, and the refusal's code."""
    count = 0
    while not (answer := await of.call_tool(tool, arguments)).is_error:
        count += 1
    return count, error_of(answer)["code"]


async def test_one_of_several_owners_opens_at_most_half_of_the_sessions() -> None:
    """Otherwise one owner could open all sessions."""
    sessions = SessionLimits(idle_seconds=60, maximum=4, several_owners=lambda: True)
    setup = Setup(access=AccessRules(Tokens()), sessions=sessions)
    async with serving(setup) as rig, raw(rig) as http:
        ann, bob = bearer(ANN), bearer(BOB)

        async def opened(owner: dict[str, str]) -> httpx2.Response:
            return await http.post("/mcp", json=INITIALIZE, headers=owner)

        answers: list[int] = []

        async def open_one() -> None:
            answers.append((await opened(ann)).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(open_one)
        while (answer := await opened(ann)).status_code == 200:
            answers.append(200)
        assert answers.count(200) == 2, "also when they come at once"
        error = answer.json()["error"]
        assert (answer.status_code, error["data"]["code"]) == (429, "quota_exceeded")
        assert error["message"].startswith(
            "Owner ann has 2 of the 2 MCP sessions that one owner may have. End one with DELETE"
        )
        assert [(await opened(bob)).status_code for _ in range(3)] == [200, 200, 429]
