# SPDX-License-Identifier: Apache-2.0
"""restart_environment and the grace of destroy_environment, as clients see them."""

from __future__ import annotations

import pytest
from tests.support.fakes import FakeGuest
from tests.support.server import (
    MODERN,
    Rig,
    Setup,
    client,
    created,
    data_of,
    error_of,
    serving,
    text_of,
)

from waggle.domain.environment import State
from waggle.domain.errors import BootFailed, DiskFull, GuestLost
from waggle.domain.toolset import ALL_TOOLS
from waggle.mcp.tool_names import meant
from waggle.service.sharing import RateLimiter

pytestmark = pytest.mark.anyio


def guest_of(rig: Rig, environment: str) -> FakeGuest:
    return rig.host.guests[environment]


async def test_a_restart_keeps_files_and_names_what_is_gone() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        box = await created(agent)
        here = {"environment_id": box}
        await agent.call_tool("write_file", {**here, "path": "/a", "content": "kept"})
        await agent.call_tool("execute", {**here, "code": "x = 1", "context": "main"})
        await agent.call_tool("execute", {**here, "code": "hang", "background": True})
        first = guest_of(rig, box)
        await first.started.wait()
        done = await agent.call_tool("restart_environment", here)
        gone = ["context python main", "job 3"]
        assert data_of(done) == {
            "name": f"python-{box[:8]}",
            "status": "running",
            "gone": gone,
        }
        assert "is running again after 0 s, with its files; no program runs in it. Gone: " in (
            text_of(done)
        )
        assert first.ends == [5.0]
        part = {**here, "job_id": 3, "stream": "stdout"}
        assert data_of(await agent.call_tool("read_job", part))["status"] == "lost"
        why = error_of(await agent.call_tool("wait_job", {**here, "job_id": 3}))
        assert why["message"].startswith("Job 3 was lost: It was ended by a restart of the ")
        read = await agent.call_tool("read_file", {**here, "path": "/a"})
        assert "kept" in text_of(read)
        again = await agent.call_tool("execute", {**here, "code": "print(x)", "context": "main"})
        assert "x = 1" not in str(guest_of(rig, box).kept)
        assert data_of(again)["job_id"] == 5


async def test_a_machine_that_was_killed_is_said_to_be() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        box = await created(agent)
        guest_of(rig, box).ends_by_itself = False
        first = guest_of(rig, box)
        done = await agent.call_tool("restart_environment", {"environment_id": box, "force": True})
        assert first.ends == [0.0]
        assert data_of(done)["killed"] is True
        assert text_of(done).count("as in a power cut") == 1


@pytest.mark.parametrize("error", [DiskFull("no room"), BootFailed("a part is gone")])
async def test_a_restart_that_is_refused_changes_nothing(error: Exception) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        here = {"environment_id": await created(agent)}
        assert isinstance(error, DiskFull | BootFailed)
        rig.host.restart_refusal = error
        refused = error_of(await agent.call_tool("restart_environment", here))
        assert refused["code"] == error.code
        ran = await agent.call_tool("execute", {**here, "code": "echo hi"})
        assert data_of(ran)["exit_code"] == 0


async def test_a_machine_that_does_not_boot_again_is_an_error() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        here = {"environment_id": await created(agent)}
        rig.host.create_error = BootFailed("It panicked.")
        refused = error_of(await agent.call_tool("restart_environment", here))
        assert refused["message"] == "It panicked."
        seen = data_of(await agent.call_tool("get_environment", here))
        assert (seen["status"], seen["error"]) == ("error", "Restart failed: It panicked.")


async def test_a_restart_is_a_call_like_any_other_and_no_new_environment() -> None:
    """It begins no other minute of calls, and takes no other slot."""
    async with (
        serving(Setup(rates=RateLimiter(4, lambda: 0.0))) as rig,
        client(rig, MODERN) as agent,
    ):
        here = {"environment_id": await created(agent)}
        for _ in range(3):
            assert data_of(await agent.call_tool("restart_environment", here))
            assert rig.services.environments.slots_held == 1
        for tool in ("restart_environment", "get_environment"):
            refused = error_of(await agent.call_tool(tool, here))
            assert refused["code"] == "rate_limited"
        listed = rig.services.environments.list(owner="local")
        assert [environment.state for environment in listed] == [State.RUNNING]


async def test_a_restart_says_which_ports_need_their_programs_again() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        here = {"environment_id": await created(agent)}
        for port, said in ((8000, "Port 8000 is"), (8001, "Ports 8000, 8001 are")):
            await agent.call_tool("expose_port", {**here, "port": port, "wait_seconds": 0})
            done = await agent.call_tool("restart_environment", here)
            note = f"{said} still exposed under the same URL: start what listens there again."
            assert data_of(done)["note"] == note
            assert text_of(done).endswith(f"no program runs in it.\n{note}")


async def test_programs_have_time_before_a_destroy() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        here = {"environment_id": await created(agent)}
        guest = guest_of(rig, here["environment_id"])
        wrong = error_of(
            await agent.call_tool("destroy_environment", {**here, "grace_seconds": 31})
        )
        assert "0 to 30" in wrong["message"]
        done = await agent.call_tool("destroy_environment", {**here, "grace_seconds": 7})
        assert data_of(done)["status"] == "destroyed"
        assert (guest.ends, guest.destroys) == ([7.0], 1)


async def test_a_machine_that_cannot_end_is_destroyed_all_the_same() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        here = {"environment_id": await created(agent)}
        guest = guest_of(rig, here["environment_id"])
        guest.end_error = GuestLost("no answer")
        done = await agent.call_tool("destroy_environment", {**here, "grace_seconds": 1})
        assert data_of(done)["status"] == "destroyed"
        assert guest.destroys == 1


@pytest.mark.parametrize("name", ["reboot", "restart_sandbox", "reset_environment"])
def test_other_names_lead_to_it(name: str) -> None:
    assert meant(name, ALL_TOOLS) == "restart_environment"
