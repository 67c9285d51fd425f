# SPDX-License-Identifier: Apache-2.0
"""Calls without an environment_id: they create one, name it first, and keep it if they used it."""

from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult
from tests.support.fakes import FakeGuest, FakeHost
from tests.support.server import MODERN, Rig, Setup, client, data_of, error_of, serving, text_of

from waggle.domain.access import LOCAL
from waggle.domain.environment import State
from waggle.domain.errors import BootFailed, FileRefused
from waggle.domain.machine import Resources
from waggle.domain.programs import HOME, Command, ExecutionResult, Streams

pytestmark = pytest.mark.anyio


async def call(agent: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await agent.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


def running(rig: Rig) -> list[str]:
    listed = rig.services.environments.list(owner=LOCAL)
    return [environment.id for environment in listed if environment.state is State.RUNNING]


async def test_a_program_without_an_environment_gets_one_and_its_id_first() -> None:
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
async def test_the_runtime_is_the_default_unless_another_is_needed(
    tool: str, arguments: dict[str, Any], runtime: str
) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        result = await call(agent, tool, **arguments)
        (made,) = rig.services.environments.list(owner=LOCAL)
        assert (made.runtime, made.state) == (runtime, State.RUNNING)
        assert made.id in text_of(result).split("\n")[0]


async def test_a_runtime_that_the_environment_does_not_have_is_refused() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        made = data_of(await call(agent, "create_environment", runtime="data"))["environment_id"]
        here = {"environment_id": made, "code": "echo hi"}
        assert "hi" in text_of(await call(agent, "execute", **here, runtime="python"))
        refused = error_of(await call(agent, "execute", **here, runtime="node"))
        assert refused["message"] == "This environment's runtime is data, not node."
        assert refused["hint"].startswith("Leave out runtime")
        assert running(rig) == [made]


async def test_a_program_that_fails_keeps_its_environment_and_names_it() -> None:
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
async def test_a_refused_call_creates_no_environment(tool: str, arguments: dict[str, Any]) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        assert error_of(await call(agent, tool, **arguments))["hint"]
        assert rig.host.guests == {}


async def test_an_environment_that_could_not_be_used_is_destroyed() -> None:
    def full(guest: Any) -> None:
        guest.file_error = FileRefused("The disk is full.")

    async with serving(Setup(FakeHost(prepare=full))) as rig, client(rig, MODERN) as agent:
        failed = await call(agent, "write_file", path="/x", content="")
        assert error_of(failed)["code"] == "file_refused"
        assert running(rig) == []
        assert rig.host.only.destroys == 1


async def test_a_failed_create_is_reported() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        rig.host.create_error = BootFailed("The guest did not start.")
        assert error_of(await call(agent, "execute", code="x"))["code"] == "boot_failed"


async def test_a_call_cancelled_during_the_create_leaves_no_environment() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        rig.host.hold = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: call(agent, "execute", code="echo hi"))
            await rig.host.creating.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await rig.host.create_undone.wait()
        assert running(rig) == []


async def test_a_call_without_room_is_refused_with_the_existing_environments() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        for _ in range(3):
            await call(agent, "execute", code="echo hi")
        full = await call(agent, "execute", code="echo hi")
        assert error_of(full)["code"] == "max_environments"
        assert all(identity in text_of(full) for identity in running(rig))
        assert "destroy_environment" in text_of(full)


async def test_repeated_calls_with_a_key_create_one_environment() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        results = [
            await call(agent, "execute", code="echo hi", idempotency_key="k") for _ in range(2)
        ]
        (made,) = running(rig)
        assert all(data_of(result)["environment_id"] == made for result in results)


async def test_an_environment_may_be_given_by_name_or_short_id() -> None:
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


async def test_an_environment_is_created_with_size_variables_files_and_packages() -> None:
    async with serving(Setup(max_environments=4)) as rig, client(rig, MODERN) as agent:
        made = await call(
            agent,
            "create_environment",
            runtime="py",
            cpus=2,
            memory_mb=1024,
            disk_mb=2048,
            env=["MODE=test", "PORT=8080"],
            files=[{"path": "~/app/main.py", "content": "x"}],
            packages="pip install numpy",
        )
        assert "Installed: numpy." in text_of(made)
        assert data_of(made)["installed"] == ["numpy"]
        environment = rig.services.environments.get(running(rig)[0], owner=LOCAL)
        assert environment.resources == Resources(cpus=2, memory_mib=1024, disk_mib=2048)
        assert environment.variables == {"MODE": "test", "PORT": "8080"}
        assert environment.packages == ("numpy",)
        assert rig.host.only.files[f"{HOME}/app/main.py"].data == b"x"
        assert rig.host.only.commands[-1].argv == ("install", "numpy")
        (copy,) = data_of(await call(agent, "fork_environment", environment_id=environment.id))[
            "environments"
        ]
        forked = rig.services.environments.get(copy["environment_id"], owner=LOCAL)
        assert (forked.variables, forked.packages) == (environment.variables, ("numpy",))


@pytest.mark.parametrize(
    "arguments",
    [
        {"cpus": 0},
        {"cpus": 3},
        {"memory_mb": 64},
        {"memory_mb": 2049},
        {"disk_mb": 1_000_000},
        {"env": ["x"]},
        {"env": {"A": "x" * 40_000}},
        {"packages": "pip list"},
        {"packages": "numpy", "network": "none"},
        {"files": [{"path": "~root/x", "content": ""}]},
    ],
)
async def test_impossible_properties_create_no_environment(arguments: dict[str, Any]) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        assert error_of(await call(agent, "create_environment", **arguments))["hint"]
        assert rig.host.guests == {}


async def test_a_failed_install_is_reported_and_the_environment_is_kept() -> None:
    async def failing(_command: Command, into: Streams) -> ExecutionResult:
        into.stderr.feed(b"no such package")
        output = into.stdout.output(), into.stderr.output()
        return ExecutionResult(*output, exit_code=1, signal=None, timed_out=False, duration=0.1)

    def prepare(guest: FakeGuest) -> None:
        guest.programs["install"] = failing

    async with serving(Setup(FakeHost(prepare=prepare))) as rig, client(rig, MODERN) as agent:
        failed = await call(agent, "create_environment", packages="nonesuch")
        assert error_of(failed)["code"] == "install_failed"
        assert "no such package" in text_of(failed)
        assert (failed.structured_content or {})["environment_id"] == running(rig)[0]


async def test_more_memory_than_the_default_takes_more_slots() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        await call(agent, "create_environment", memory_mb=1024)
        await call(agent, "create_environment")
        full = await call(agent, "create_environment")
        assert error_of(full)["code"] == "max_environments"
        large = await call(agent, "create_environment", memory_mb=2048)
        assert error_of(large)["code"] == "max_environments"
