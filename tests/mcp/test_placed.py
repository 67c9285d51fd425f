# SPDX-License-Identifier: Apache-2.0
"""Calls without an environment_id: one is made, named first, and kept if the call used it."""

from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult
from tests.support.fakes import FakeHost
from tests.support.server import MODERN, Rig, Setup, client, data_of, error_of, serving, text_of

from waggle.domain.access import LOCAL
from waggle.domain.environment import State
from waggle.domain.errors import BootFailed, FileRefused

pytestmark = pytest.mark.anyio


async def call(agent: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await agent.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


def running(rig: Rig) -> list[str]:
    listed = rig.services.environments.list(owner=LOCAL)
    return [each.id for each in listed if each.state is State.RUNNING]


async def test_a_program_without_an_environment_gets_one_and_is_told_its_id_first() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        first = await call(agent, "execute", code="echo hi")
        (made,) = running(rig)
        assert text_of(first).startswith(f"environment_id: {made} (new, python;")
        assert next(iter(data_of(first))) == "environment_id"
        assert data_of(first)["environment_id"] == made
        assert "hi" in text_of(first)
        again = await call(agent, "execute", code="echo hi", environment_id=made)
        assert "environment_id" not in data_of(again)
        assert running(rig) == [made]


@pytest.mark.parametrize(
    "tool, arguments, runtime",
    [
        ("execute", {"code": "x", "language": "python"}, "python"),
        ("execute", {"code": "x", "language": "javascript"}, "node"),
        ("execute", {"code": "```ts\nx\n```"}, "node"),
        ("execute", {"code": "ls -l", "language": "bash"}, "python"),
        ("execute", {"code": "x", "runtime": "shell"}, "shell"),
        ("install_packages", {"packages": "numpy"}, "python"),
        ("install_packages", {"packages": "npm i left-pad"}, "node"),
        ("install_packages", {"packages": "jq", "runtime": "bash"}, "shell"),
        ("write_file", {"path": "a", "content": ""}, "python"),
        ("write_file", {"path": "a", "content": "", "runtime": "node"}, "node"),
    ],
)
async def test_the_runtime_is_the_default_one_unless_another_is_needed(
    tool: str, arguments: dict[str, Any], runtime: str
) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        result = await call(agent, tool, **arguments)
        (made,) = rig.services.environments.list(owner=LOCAL)
        assert (made.runtime, made.state) == (runtime, State.RUNNING)
        assert made.id in text_of(result).split("\n")[0]


async def test_a_program_that_fails_leaves_its_environment_and_tells_it() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        for code in ("exit 3", "timeout"):
            result = await call(agent, "execute", code=code)
            assert text_of(result).startswith(f"environment_id: {running(rig)[-1]}")


@pytest.mark.parametrize(
    "tool, arguments",
    [
        ("execute", {"code": ""}),
        ("execute", {"code": "x", "language": "perl"}),
        ("execute", {"code": "x", "cwd": "~root"}),
        ("execute", {"code": "x", "runtime": "ruby"}),
        ("execute", {"code": "x", "environment_id": "nobody"}),
        ("write_file", {"path": "", "content": ""}),
        ("write_file", {"path": "a", "content": "", "mode": "rw"}),
        ("install_packages", {"packages": "npm ci"}),
    ],
)
async def test_what_is_refused_makes_none(tool: str, arguments: dict[str, Any]) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        assert error_of(await call(agent, tool, **arguments))["hint"]
        assert rig.host.guests == {}


async def test_one_in_which_nothing_could_be_done_is_gone() -> None:
    def full(guest: Any) -> None:
        guest.file_error = FileRefused("The disk is full.")

    async with serving(Setup(FakeHost(prepare=full))) as rig, client(rig, MODERN) as agent:
        failed = await call(agent, "write_file", path="/x", content="")
        assert error_of(failed)["code"] == "file_refused"
        assert running(rig) == []
        assert rig.host.only.destroys == 1


async def test_a_create_that_fails_is_told() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        rig.host.create_error = BootFailed("The guest did not start.")
        assert error_of(await call(agent, "execute", code="x"))["code"] == "boot_failed"


async def test_a_call_that_is_given_up_while_it_is_made_leaves_nothing() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        rig.host.hold = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: call(agent, "execute", code="echo hi"))
            await rig.host.creating.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await rig.host.create_undone.wait()
        assert running(rig) == []


async def test_without_room_it_says_which_to_go_on_in() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        for _ in range(3):
            await call(agent, "execute", code="echo hi")
        full = await call(agent, "execute", code="echo hi")
        assert error_of(full)["code"] == "max_environments"
        assert all(each in text_of(full) for each in running(rig))
        assert "destroy_environment" in text_of(full)


async def test_a_key_makes_one_however_often_it_comes() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        results = [
            await call(agent, "execute", code="echo hi", idempotency_key="k") for _ in range(2)
        ]
        (made,) = running(rig)
        assert all(data_of(each)["environment_id"] == made for each in results)


async def test_a_name_will_do_and_results_have_the_id() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        made = await call(agent, "create_environment", runtime="python", name="web")
        environment_id = data_of(made)["environment_id"]
        for reference in ("web", environment_id[:8]):
            await call(agent, "write_file", environment_id=reference, path="a", content="x")
            assert "x" in text_of(
                await call(agent, "read_file", environment_id=reference, path="a")
            )
        opened = await call(agent, "expose_port", environment_id="web", port=80, wait_seconds=0)
        assert data_of(opened).get("environment_id", environment_id) == environment_id
        await call(agent, "destroy_environment", environment_id="web")
        assert running(rig) == []
