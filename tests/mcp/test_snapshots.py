# SPDX-License-Identifier: Apache-2.0
"""Pauses, snapshots, forks and rollbacks through a real client."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from tests.support.fakes import FakeFile
from tests.support.server import (
    ERAS,
    LEGACY,
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

from waggle.domain.access import LOCAL
from waggle.domain.errors import Unsupported
from waggle.domain.programs import HOME
from waggle.mcp.results import COPY_BUDGET
from waggle.mcp.results.environments import MOST_LISTED
from waggle.service.environments.creating import Pausing

pytestmark = pytest.mark.anyio
NOTE = f"{HOME}/note"


async def state(agent: Client, environment_id: str) -> dict[str, Any]:
    found = await agent.call_tool("get_environment", {"environment_id": environment_id})
    return {**data_of(found), "text": text_of(found)}


async def snapshot(agent: Client, environment_id: str, **more: object) -> str:
    taken = await agent.call_tool(
        "snapshot_environment", {"environment_id": environment_id, **more}
    )
    return str(data_of(taken)["snapshot_id"])


def write(rig: Rig, environment_id: str, text: str) -> None:
    rig.host.guests[environment_id].files[NOTE] = FakeFile(text.encode(), 0o644)


async def note(agent: Client, environment_id: str) -> object:
    arguments = {"environment_id": environment_id, "path": NOTE}
    return data_of(await agent.call_tool("read_file", arguments))["content"]


@pytest.mark.parametrize("era", ERAS)
async def test_an_environment_paused_in_memory_is_resumed_by_a_call(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        identity = await created(agent)
        paused = await agent.call_tool("pause_environment", {"environment_id": identity})
        assert data_of(paused) == {
            "name": f"python-{identity[:8]}",
            "status": "paused",
            "expires_at": "2026-03-04T05:36:07Z",
            "note": "Any call that uses it resumes it.",
        }
        assert "paused in memory, and destroyed at 2026-03-04T05:36:07Z" in text_of(paused)
        seen = await state(agent, identity)
        assert seen["status"] == "paused"
        assert "destroyed after 30m without a call, 1800 s from now" in seen["text"]
        assert ", and any call resumes it" in seen["text"]
        code = {"environment_id": identity, "code": "echo hi"}
        assert data_of(await agent.call_tool("execute", code))["exit_code"] == 0
        assert (await state(agent, identity))["status"] == "running"


@pytest.mark.parametrize("pauses,fate", [(True, "paused to disk"), (False, "destroyed")])
async def test_texts_state_the_fate_of_an_unused_environment(pauses: bool, fate: str) -> None:
    setup = Setup(pausing=Pausing(when_idle=pauses))
    async with serving(setup) as rig, client(rig, MODERN) as agent:
        made = await agent.call_tool("create_environment", {"runtime": "python"})
        assert f"; {fate} after 30m without a call." in text_of(made)
        one = {"environment_id": data_of(made)["environment_id"]}
        assert f"; {fate} after 30m without" in text_of(
            await agent.call_tool("get_environment", one)
        )
        extended = await agent.call_tool("extend_environment", {**one, "minutes": 5})
        assert f" is {fate} after 5m without a call" in text_of(extended)
        paused = await agent.call_tool("pause_environment", one)
        assert f"in memory, and {fate} at" in text_of(paused)
        resumed = await agent.call_tool("resume_environment", one)
        assert f"is running, and {fate} at" in text_of(resumed)
    async with serving(setup) as rig, client(rig, LEGACY) as agent:
        text = str(agent.instructions)
        assert ("not used is paused to disk" in text) is pauses
        assert ("not used is destroyed" in text) is not pauses


async def test_an_environment_paused_to_disk_is_kept_and_resumed() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        write(rig, identity, "kept")
        arguments = {"environment_id": identity, "to_disk": True}
        paused = await agent.call_tool("pause_environment", arguments)
        until = "2026-03-05T05:06:07Z"
        assert data_of(paused)["on_disk_until"] == until
        assert f"on the disk, and kept until {until}" in text_of(paused)
        seen = await state(agent, identity)
        assert seen["on_disk_until"] == until
        assert "memory_bytes_used" not in seen
        assert f"kept on the disk until {until}, and any call resumes it" in seen["text"]
        listed = await agent.call_tool("list_environments", {})
        assert data_of(listed)["environments"][0]["on_disk_until"] == until
        assert f", on the disk until {until}" in text_of(listed)
        again = await agent.call_tool("pause_environment", arguments)
        assert data_of(again) == data_of(paused)
        resumed = await agent.call_tool("resume_environment", {"environment_id": identity})
        assert data_of(resumed)["status"] == "running"
        assert "on_disk_until" not in data_of(resumed)
        assert await note(agent, identity) == "kept"


async def test_a_job_goes_on_in_an_environment_that_is_paused_and_resumed() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        here = {"environment_id": identity}
        code = {**here, "code": "echo one\nhang\necho two", "background": True}
        assert data_of(await agent.call_tool("execute", code))["status"] == "running"
        await agent.call_tool("pause_environment", here)
        read = data_of(await agent.call_tool("read_job", {**here, "job_id": 1, "stream": "stdout"}))
        assert (read["status"], read["content"]) == ("paused", "one\n")
        assert read["note"].startswith("It goes on as job 1 when the environment is resumed")
        rig.host.only.release.set()
        waited = await agent.call_tool("wait_job", {**here, "job_id": 1})
        assert (data_of(waited)["status"], data_of(waited)["stdout"]) == ("exited", "one\ntwo\n")


@pytest.mark.parametrize("era", ERAS)
async def test_a_snapshot_is_taken_listed_resumed_and_deleted(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        identity = await created(agent)
        write(rig, identity, "then")
        taken = await agent.call_tool(
            "snapshot_environment", {"environment_id": identity, "name": "ready"}
        )
        item = data_of(taken)
        assert item == {
            "snapshot_id": item["snapshot_id"],
            "name": "ready",
            "size_bytes": 1000,
            "expires_at": "2026-03-05T05:06:07Z",
        }
        write(rig, identity, "since")
        listed = await agent.call_tool("list_snapshots", {})
        about = {
            "environment_id": identity,
            "runtime": "python",
            "created_at": "2026-03-04T05:06:07Z",
        }
        assert data_of(listed) == {"snapshots": [{**item, **about}], "count": 1}
        assert item["snapshot_id"] in text_of(listed)
        for of, count in ((identity, 1), (identity[:8], 1), ("elsewhere", 0)):
            some = await agent.call_tool("list_snapshots", {"environment_id": of})
            assert data_of(some).get("count", 0) == count
        copy = await agent.call_tool("create_environment", {"snapshot": item["snapshot_id"]})
        assert "python) starts from snapshot ready;" in text_of(copy)
        assert await note(agent, data_of(copy)["environment_id"]) == "then"
        assert await note(agent, identity) == "since"
        gone = await agent.call_tool("delete_snapshot", {"snapshot_id": item["snapshot_id"]})
        assert data_of(gone) == {"name": "ready"}
        assert data_of(await agent.call_tool("list_snapshots", {})).get("count", 0) == 0
        again = await agent.call_tool("delete_snapshot", {"snapshot_id": item["snapshot_id"]})
        assert error_of(again)["code"] == "not_found"


async def test_a_copy_has_the_runtime_and_the_image_of_its_snapshot() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        kept = await snapshot(agent, await created(agent, "node"))
        chosen = {"snapshot": kept, "runtime": "node", "name": "copy", "network": "none"}
        made = data_of(await agent.call_tool("create_environment", chosen))
        assert (made["runtime"], made["name"], made["network"]) == ("node", "copy", "none")
        for wrong, code, words in (
            ({"runtime": "python"}, "invalid_argument", "has the runtime node, not python"),
            ({"runtime": "perl"}, "invalid_runtime", "no runtime 'perl'"),
            ({"image": "local/node"}, "invalid_argument", "exclude each other"),
        ):
            refused = error_of(
                await agent.call_tool("create_environment", {"snapshot": kept, **wrong})
            )
            assert refused["code"] == code
            assert words in refused["message"]


async def test_a_snapshot_has_its_own_size() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        taken = data_of(await agent.call_tool("snapshot_environment", {"environment_id": identity}))
        wish = {"snapshot": taken["snapshot_id"], "memory_mb": 1024}
        refused = error_of(await agent.call_tool("create_environment", wish))
        assert "own size" in refused["message"]
        wish = {"snapshot": taken["name"], "env": {"A": 1}}
        made = data_of(await agent.call_tool("create_environment", wish))
        environment = rig.services.environments.get(made["environment_id"], owner=LOCAL)
        assert environment.variables == {"A": "1"}


async def test_a_fork_makes_all_copies_or_none() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        write(rig, identity, "shared")
        made = await agent.call_tool("fork_environment", {"environment_id": identity, "count": 2})
        result = data_of(made)
        copies = [item["environment_id"] for item in result["environments"]]
        assert len({*copies, identity}) == 3
        assert all(identity in text_of(made) for identity in copies)
        assert [await note(agent, identity) for identity in copies] == ["shared"] * 2
        refused = await agent.call_tool("fork_environment", {"environment_id": identity})
        assert error_of(refused)["code"] == "max_environments"
        for count in (0, 17):
            arguments = {"environment_id": identity, "count": count}
            refused = await agent.call_tool("fork_environment", arguments)
            assert error_of(refused)["code"] == "invalid_argument"
        assert data_of(await agent.call_tool("list_environments", {}))["count"] == 3


async def test_an_environment_is_rolled_back_only_to_its_own_snapshot() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity, other = await created(agent), await created(agent)
        write(rig, identity, "before")
        kept = await snapshot(agent, identity)
        write(rig, identity, "after")
        arguments = {"environment_id": identity, "snapshot_id": kept}
        back = await agent.call_tool("rollback_environment", arguments)
        assert data_of(back) == {
            "name": f"python-{identity[:8]}",
            "status": "running",
        }
        assert "later changes are lost" in text_of(back)
        assert "xpose" not in text_of(back)  # its ports are exposed again automatically
        assert await note(agent, identity) == "before"
        refused = await agent.call_tool(
            "rollback_environment", {"environment_id": other, "snapshot_id": kept}
        )
        assert error_of(refused)["code"] == "invalid_argument"
        assert "create_environment(snapshot=...)" in error_of(refused)["hint"]


@pytest.mark.parametrize(
    "tool, arguments, count",
    [
        ("snapshot_environment", {"name": "a"}, ("list_snapshots", 1)),
        ("fork_environment", {"count": 1}, ("list_environments", 2)),
    ],
)
async def test_repeated_calls_with_a_key_act_once(
    tool: str, arguments: dict[str, object], count: tuple[str, int]
) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        call = {"environment_id": await created(agent), "idempotency_key": "k", **arguments}
        first = await agent.call_tool(tool, call)
        second = await agent.call_tool(tool, call)
        assert data_of(first) == data_of(second)
        assert data_of(await agent.call_tool(count[0], {}))["count"] == count[1]


async def test_progress_names_the_steps() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        reports: list[tuple[float, str | None]] = []

        async def note_it(progress: float, total: float | None, message: str | None) -> None:
            assert total == 1.0
            reports.append((progress, message))

        call = {"environment_id": identity}
        await agent.call_tool("snapshot_environment", call, progress_callback=note_it)
        await agent.call_tool("fork_environment", call, progress_callback=note_it)
        assert (0.0, "Freezing the machine") in reports
        assert (0.5, "Resuming 1 copies") in reports


async def test_a_machine_that_cannot_be_frozen_gives_a_clear_error() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        rig.host.only.freeze_error = Unsupported("It cannot.", hint="WAGGLE_HYPERVISOR=qemu can.")
        for tool in ("snapshot_environment", "fork_environment"):
            refused = error_of(await agent.call_tool(tool, {"environment_id": identity}))
            assert refused["code"] == "unsupported"
            assert "WAGGLE_HYPERVISOR=qemu" in refused["hint"]
        assert data_of(await agent.call_tool("list_snapshots", {})).get("count", 0) == 0


async def test_snapshots_are_limited_and_their_list_fits_a_result() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        identity = await created(agent)
        for _ in range(3):
            await snapshot(agent, identity)
        full = await agent.call_tool("snapshot_environment", {"environment_id": identity})
        assert error_of(full)["code"] == "quota_exceeded"
        assert "delete_snapshot" in error_of(full)["hint"]
        listed = data_of(await agent.call_tool("list_snapshots", {}))["snapshots"]
        assert max(len(str(item)) for item in listed) * 3 * MOST_LISTED < COPY_BUDGET
