# SPDX-License-Identifier: Apache-2.0
"""The tool run_code: everything in one call, and nothing left after any outcome."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp import Client
from tests.support.fakes import FakeGuest, FakeHost
from tests.support.server import (
    ERAS,
    LEGACY,
    MODERN,
    Rig,
    Setup,
    client,
    data_of,
    error_of,
    serving,
    text_of,
)
from tests.support.waiting import until

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import BootFailed
from waggle.domain.network import NO_NETWORK
from waggle.domain.programs import HOME, Command, ExecutionResult, Streams
from waggle.mcp.observed import REPEATED_META_KEY

pytestmark = pytest.mark.anyio
LONG = "x" * (10 * 1024 * 1024 + 1)


def gone(rig: Rig) -> None:
    """Assert that no environment is left and that every machine was destroyed once."""
    assert rig.services.environments.all() == []
    assert all(guest.destroys == 1 for guest in rig.host.guests.values())


async def run(agent: Client, **arguments: Any) -> Any:
    return await agent.call_tool("run_code", arguments)


@pytest.mark.parametrize("era", ERAS)
async def test_a_program_runs_and_its_environment_is_destroyed(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        result = await run(
            agent,
            code="echo hello\nstdin\nexit 3",
            stdin="text",
            files={"data/a.txt": "one", "/tmp/b": "two"},
        )
        output = data_of(result)
        assert (output["status"], output["exit_code"]) == ("exited", 3)
        assert text_of(result) == "hello\ntext\n[exit 3]"
        assert output["stdout"] == "hello\ntext"
        assert "job_id" not in output
        files = rig.host.only.files
        assert (files[f"{HOME}/data/a.txt"].data, files["/tmp/b"].data) == (b"one", b"two")
        gone(rig)


@pytest.mark.parametrize("era", ERAS)
async def test_repeated_calls_with_a_key_run_once(era: str) -> None:
    async with serving() as rig:
        keyed = {"code": "echo hello\nexit 3", "idempotency_key": "once"}
        async with client(rig, LEGACY) as agent:
            first = await run(agent, **keyed)
        async with client(rig, era) as agent:
            again = await run(agent, **keyed)
            assert data_of(again) == data_of(first)
            assert again.meta[REPEATED_META_KEY]
            assert len(rig.host.guests) == 1
            other = await run(agent, **{**keyed, "code": "echo bye"})
            assert error_of(other)["code"] == "idempotency_key_reused"
            timed_out = {"code": "echo begun\ntimeout", "idempotency_key": "late"}
            late = [await run(agent, **timed_out) for _ in range(2)]
            assert [error_of(result)["code"] for result in late] == ["timeout"] * 2
            assert len(rig.host.guests) == 2
            refused = {"code": "", "idempotency_key": "bad"}
            assert error_of(await run(agent, **refused))["code"] == "invalid_argument"
            data_of(await run(agent, **{**refused, "code": "echo good"}))
        gone(rig)


async def test_packages_are_installed_first_and_their_failure_is_reported() -> None:
    async def failing(_command: Command, into: Streams) -> ExecutionResult:
        into.stderr.feed(b"no such package")
        return ExecutionResult(
            stdout=into.stdout.output(),
            stderr=into.stderr.output(),
            exit_code=1,
            signal=None,
            timed_out=False,
            duration=0.1,
        )

    def prepare(guest: FakeGuest) -> None:
        guest.programs["install"] = failing

    async with serving() as rig, client(rig, MODERN) as agent:
        assert data_of(await run(agent, code="echo hi", packages="numpy"))["stdout"] == "hi\n"
        commands = [command.argv[0] for command in rig.host.only.commands]
        assert commands == ["install", "shell"]
        gone(rig)
    async with serving(Setup(FakeHost(prepare=prepare))) as rig, client(rig, MODERN) as agent:
        failed = await run(agent, code="echo hi", packages=["nonesuch"])
        assert error_of(failed)["code"] == "install_failed"
        assert failed.structured_content["phase"] == "install"
        assert failed.structured_content["stderr"] == "no such package"
        assert len(rig.host.only.commands) == 1
        gone(rig)


async def test_a_failure_has_a_diagnosis_as_in_execute() -> None:
    def prepare(guest: FakeGuest) -> None:
        guest.diagnosis = Diagnosis("disk_full", "The disk is full.", "Delete something.")

    async with serving(Setup(FakeHost(prepare=prepare))) as rig, client(rig, MODERN) as agent:
        failed = await run(agent, code="exit 1")
        why = data_of(failed)["diagnosis"]
        assert why == {
            "code": "disk_full",
            "cause": "The disk is full.",
            "next_step": "Delete something.",
        }
        assert text_of(failed).endswith("disk_full: The disk is full. Delete something.")
    async with serving() as rig, client(rig, MODERN) as agent:
        assert "diagnosis" not in data_of(await run(agent, code="echo hi"))


async def test_a_timeout_is_an_error_with_the_output_so_far() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        result = await run(agent, code="echo begun\ntimeout", timeout_seconds=5)
        assert error_of(result)["code"] == "timeout"
        assert result.structured_content["stdout"] == "begun\n"
        assert rig.host.only.commands[0].timeout == 5
        gone(rig)


@pytest.mark.parametrize(
    "arguments",
    [
        {"runtime": "ruby"},
        {"network": "all"},
        {"packages": "numpy", "network": "none"},
        {"packages": "a;b"},
        {"packages": ["numpy", "--index-url=http://x"]},
        {"packages": "p " * 101},
        {"packages": "@types/node", "runtime": "python"},
        {"files": {"a\0b": ""}},
        {"files": {str(n): "" for n in range(21)}},
        {"timeout_seconds": 301},
        {"timeout_seconds": 0},
    ],
)
async def test_mistakes_are_refused_before_anything_boots(arguments: dict[str, Any]) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        refused = error_of(await run(agent, code="echo", **arguments))
        assert refused["code"].startswith("invalid_")
        assert refused["hint"]
        assert rig.host.guests == {}


@pytest.mark.parametrize("arguments", [{"stdin": LONG}, {"files": {"a": LONG}}])
async def test_too_large_input_is_refused_before_anything_boots(arguments: dict[str, Any]) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        refused = error_of(await run(agent, code="echo", **arguments))
        assert refused["code"] == "too_large"
        assert refused["hint"]
        assert rig.host.guests == {}


async def test_packages_are_refused_if_the_default_network_is_none() -> None:
    setup = Setup(network=NO_NETWORK)
    async with serving(setup) as rig, client(rig, MODERN) as agent:
        refused = error_of(await run(agent, code="echo", packages="numpy"))
        assert "without a network" in refused["message"]
        assert rig.host.guests == {}
        data_of(await run(agent, code="echo", packages="numpy", network="public"))


async def test_a_failed_boot_or_guest_leaves_nothing() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        rig.host.create_error = BootFailed("no luck")
        assert error_of(await run(agent, code="echo"))["code"] == "boot_failed"
        rig.host.create_error = None
        assert error_of(await run(agent, code="die"))["code"] == "guest_lost"
        gone(rig)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("phase", ["create", "install", "run"])
async def test_a_client_that_leaves_ends_the_run_in_any_phase(phase: str, era: str) -> None:
    host = FakeHost(hold=anyio.Event() if phase == "create" else None)
    waiting = anyio.Event()

    async def hang(_command: Command, _into: Streams) -> ExecutionResult:
        waiting.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    def prepare(guest: FakeGuest) -> None:
        guest.programs["install" if phase == "install" else "python"] = hang

    host.prepare = prepare
    async with serving(Setup(host)) as rig, client(rig, era) as agent:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run(agent, code="echo", packages="numpy"))
            await (host.creating if phase == "create" else waiting).wait()
            group.cancel_scope.cancel()
        await until(lambda: rig.services.environments.all() == [])
        gone(rig)


async def test_progress_grows_over_all_phases() -> None:
    heard: list[tuple[float, str | None]] = []
    started = anyio.Event()

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        heard.append((progress, message))
        if message and message.startswith("running, "):
            started.set()

    async with serving(Setup(heartbeat=0.02)) as rig, client(rig, MODERN) as agent:

        async def release() -> None:
            await started.wait()
            rig.host.only.release.set()

        async with anyio.create_task_group() as group:
            group.start_soon(release)
            arguments = {"code": "hang", "packages": "numpy", "files": {"a.txt": ""}}
            await agent.call_tool("run_code", arguments, progress_callback=listen)
        numbers = [number for number, _ in heard]
        assert numbers == sorted(set(numbers))
        said = [message for _, message in heard]
        phases = ["booting", "writing /home/sandbox/a.txt", "installing", "running"]
        assert [message for message in said if message in phases] == phases
        assert said[-1] == "destroying the environment"
