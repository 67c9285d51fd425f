# SPDX-License-Identifier: Apache-2.0
"""The tools get_environment, extend_environment and the port tools, through a real client."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.support.server import (
    ERAS,
    MODERN,
    NOW,
    Setup,
    client,
    created,
    data_of,
    error_of,
    serving,
    text_of,
)

from waggle.service.environments.creating import Pausing

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.mark.parametrize("era", ERAS)
async def test_get_environment_shows_limits_usage_and_ports(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        identity = await created(agent)
        await agent.call_tool("expose_port", {"environment_id": identity, "port": 8000})
        result = await agent.call_tool("get_environment", {"environment_id": identity})
        assert data_of(result) == {
            "environment_id": identity,
            "name": f"python-{identity[:8]}",
            "runtime": "python",
            "image": "local/python",
            "status": "running",
            "created_at": "2026-03-04T05:06:07Z",
            "timeout": "30m",
            "idle_seconds_left": 1800,
            "expires_at": "2026-03-04T05:36:07Z",
            "cpus": 1,
            "memory_bytes": 512 * MIB,
            "disk_bytes": 1024 * MIB,
            "cpu_seconds_used": 1.5,
            "memory_bytes_used": 200 * MIB,
            "disk_bytes_used": 3 * MIB,
            "ports": [{"port": 8000, "url": "http://127.0.0.1:40000/"}],
            "guest_says": {
                "system": "Pretend 1",
                "kernel": "6.1",
                "uptime_seconds": 5,
                "memory_bytes": 256 * MIB,
                "memory_available_bytes": 128 * MIB,
                "load": 0.5,
                "processes": 12,
                "disks": [
                    {"mount_point": "/", "total_bytes": 64 * MIB, "used_bytes": 8 * MIB},
                ],
                "users": ["root 3"],
            },
            "ssh_port": 10_000,
        }
        assert text_of(result).splitlines() == [
            f"{identity} python-{identity[:8]} (python, local/python, network public): running",
            "created 2026-03-04T05:06:07Z, 0 s old, 0 jobs running; destroyed after 30m without a "
            "call, 1800 s from now, at 2026-03-04T05:36:07Z",
            "1 CPU, memory 512 MiB (200 MiB of the host's), disk 3 MiB of 1024 MiB, 1.5 s of CPU",
            "port 8000: http://127.0.0.1:40000/",
            "ssh port 10000",
            "it says itself: Pretend 1, kernel 6.1, up 5 s; memory 128 MiB of 256 MiB free; "
            "load 0.5, 12 processes (root 3); / 8 MiB of 64 MiB used",
        ]


async def test_an_environment_with_a_running_job_does_not_expire() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        code = {"environment_id": identity, "code": "hang", "background": True}
        await agent.call_tool("execute", code)
        state = data_of(await agent.call_tool("get_environment", {"environment_id": identity}))
        assert state["running_jobs"] == 1
        assert "expires_at" not in state


async def test_an_idle_environment_that_cannot_be_paused_to_disk_states_why() -> None:
    now = NOW
    pausing = Pausing(when_idle=True, max_on_disk=1)
    setup = Setup(pausing=pausing, clock=lambda: now)
    async with serving(setup) as rig, client(rig, MODERN) as agent:
        on_disk, idle = await created(agent), await created(agent)
        await agent.call_tool("pause_environment", {"environment_id": on_disk, "to_disk": True})
        now += timedelta(minutes=30)
        assert await rig.services.environments.retire(idle) is None
        why = (
            "It is idle, and paused in memory until it can be paused to disk: Owner local "
            "has 1 of the 1 environments paused to disk that one owner may have."
        )
        looked = await agent.call_tool("get_environment", {"environment_id": idle})
        listed = await agent.call_tool("list_environments", {})
        assert why in text_of(looked)
        assert why in text_of(listed)
        assert data_of(looked)["notice"] == why
        lines = data_of(listed)["environments"]
        assert [line.get("notice") for line in lines] == [None, why]
        refused = await agent.call_tool(
            "pause_environment", {"environment_id": idle, "to_disk": True}
        )
        assert error_of(refused) == {
            "code": "quota_exceeded",
            "message": why.partition("disk: ")[2],
            "hint": "Destroy one of yours that is paused, or resume it with any call. "
            "The operator's limit is WAGGLE_MAX_PAUSED.",
            "retryable": True,
        }


async def test_an_environment_with_a_dead_machine_shows_no_usage() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        rig.host.only.die("out of memory")
        result = await agent.call_tool("get_environment", {"environment_id": identity})
        state = data_of(result)
        assert state["status"] == "error"
        assert "memory_bytes_used" not in state
        assert "error: The machine died: out of memory" in text_of(result)


@pytest.mark.parametrize("era", ERAS)
async def test_an_environment_is_extended(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        identity = await created(agent)
        arguments = {"environment_id": identity, "minutes": 60}
        result = await agent.call_tool("extend_environment", arguments)
        assert data_of(result) == {
            "name": f"python-{identity[:8]}",
            "timeout": "60m",
            "expires_at": "2026-03-04T06:06:07Z",
        }
        arguments = {"environment_id": identity, "minutes": 61}
        refused = error_of(await agent.call_tool("extend_environment", arguments))
        assert refused["code"] == "invalid_argument"
