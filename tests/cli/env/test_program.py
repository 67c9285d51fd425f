# SPDX-License-Identifier: Apache-2.0
"""A followed program: unchanged output while it runs, and its end is the command's end."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from mcp import Client
from tests.cli.beside import Said
from tests.support.fakes import FakeGuest
from tests.support.server import Setup, client, created, data_of, serving
from tests.support.waiting import until

from waggle.cli.client import CallRefused
from waggle.cli.env.program import Ended, ended, run
from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import RateLimited
from waggle.domain.programs import Command, ExecutionResult, Streams
from waggle.service.sharing import RateLimiter

pytestmark = pytest.mark.anyio
PAGES = random.Random(7).randbytes(1_000_000)
TEXT = "données € 🐝\n".encode() * 60_000


@asynccontextmanager
async def box(setup: Setup | None = None) -> AsyncGenerator[tuple[Client, FakeGuest, str]]:
    async with serving(setup) as rig, client(rig, "2026-07-28") as agent:
        identity = await created(agent)
        yield agent, rig.host.only, identity


Work = Callable[[FakeGuest, Streams], Awaitable[ExecutionResult]]


def program(
    out: bytes = b"",
    err: bytes = b"",
    code: int | None = 0,
    *,
    hang: bool = False,
    signal: str | None = None,
    timed_out: bool = False,
) -> Work:
    """Return a guest's program that prints and then ends, or waits for the guest's `release`."""

    async def work(guest: FakeGuest, into: Streams) -> ExecutionResult:
        into.stdout.feed(out)
        into.stderr.feed(err)
        if hang:
            guest.started.set()
            await guest.release.wait()
            into.stdout.feed(b"released")
        await anyio.lowlevel.checkpoint()
        shown = into.stdout.output(), into.stderr.output()
        return ExecutionResult(*shown, code, signal, timed_out, duration=0.5)

    return work


async def follow(
    agent: Client, guest: FakeGuest, identity: str, work: Work, **more: Any
) -> tuple[Ended, bytes, bytes]:
    async def runs(_command: Command, into: Streams) -> ExecutionResult:
        return await work(guest, into)

    guest.programs["tool"] = runs
    out, err = io.BytesIO(), io.BytesIO()
    arguments = {"environment_id": identity, "command": ["tool", "a b"], **more}
    return await run(agent, arguments, out, err), out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    "out,err", [(b"", b""), (b"one\n", b"two"), (b"\0\xff\r\n", b"\xc3"), (PAGES, TEXT)]
)
async def test_output_is_copied_byte_for_byte(out: bytes, err: bytes) -> None:
    async with box() as (agent, guest, identity):
        done = await follow(agent, guest, identity, program(out, err, 7), stdin="x", env={"A": "1"})
        assert done == (Ended(7), out, err)
        command = guest.commands[-1]
        assert (command.argv, command.stdin, command.env) == (("tool", "a b"), b"x", {"A": "1"})


async def test_output_arrives_while_the_program_runs() -> None:
    async with box() as (agent, guest, identity), anyio.create_task_group() as group:
        out = io.BytesIO()

        async def runs(_command: Command, into: Streams) -> ExecutionResult:
            return await program(b"first ", hang=True)(guest, into)

        guest.programs["tool"] = runs
        arguments = {"environment_id": identity, "command": ["tool"]}
        group.start_soon(run, agent, arguments, out, io.BytesIO())
        await until(lambda: out.getvalue() == b"first ")
        guest.release.set()
        await until(lambda: out.getvalue() == b"first released")


async def test_cancelling_the_command_kills_the_program() -> None:
    async with box() as (agent, guest, identity):
        async with anyio.create_task_group() as group:
            group.start_soon(follow, agent, guest, identity, program(hang=True))
            await guest.started.wait()
            group.cancel_scope.cancel()
        assert [command.argv[0] for command in guest.cancelled] == ["tool"]


async def test_a_pause_is_reported_and_lasts_until_another_call_ends_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with box() as (agent, guest, identity):

        async def runs(_command: Command, into: Streams) -> ExecutionResult:
            hang = guest.started.is_set()  # a fake program begins again after a pause
            return await program(b"" if hang else b"first ", hang=True)(guest, into)

        guest.programs["tool"] = runs
        out, called, said = io.BytesIO(), {"environment_id": identity}, Said(capsys)

        async with anyio.create_task_group() as group:
            group.start_soon(run, agent, {**called, "command": ["tool"]}, out, io.BytesIO())
            await until(lambda: out.getvalue() == b"first ")
            await agent.call_tool("pause_environment", called)
            await until(lambda: said.has(f"It is paused. 'waggle env resume {identity}' resumes"))
            listed = data_of(await agent.call_tool("list_environments", {}))
            assert listed["environments"][0]["status"] == "paused"
            await agent.call_tool("resume_environment", called)
            guest.release.set()
        assert out.getvalue() == b"first released"
        assert said.has("It is resumed.")


class Closed(io.BytesIO):
    def write(self, _data: object) -> int:
        raise BrokenPipeError


async def test_a_closed_output_kills_the_program() -> None:
    async with box() as (agent, guest, identity):

        async def runs(_command: Command, into: Streams) -> ExecutionResult:
            return await program(b"much", hang=True)(guest, into)

        guest.programs["tool"] = runs
        arguments = {"environment_id": identity, "command": ["tool"]}
        with pytest.raises(BrokenPipeError):
            await run(agent, arguments, Closed(), io.BytesIO())
        assert [command.argv[0] for command in guest.cancelled] == ["tool"]


async def test_lost_output_is_reported() -> None:
    size = (1 << 23) + 700_000  # the rig keeps 8 MiB, and some of the end
    data = random.Random(3).randbytes(size)
    async with box() as (agent, guest, identity):
        done, out, _ = await follow(agent, guest, identity, program(data))
        assert 0 < done.lost < 700_000
        assert done.lost + len(out) == size
        assert out[: 1 << 23] == data[: 1 << 23]
        assert out[1 << 23 :] == data[(1 << 23) + done.lost :]


class Stubborn(RateLimiter):
    """A limiter that refuses every other call; the repeated call always passes."""

    def __init__(self) -> None:
        super().__init__(0, lambda: 0.0)
        self.calls = 0

    def take(self, owner: str) -> None:
        self.calls += 1
        if self.calls > 2 and self.calls % 2:  # the environment and the job exist
            error = RateLimited("Too many calls.", seconds=1)
            error.retry_after = 0
            raise error


async def test_a_rate_limit_only_slows_the_command_down() -> None:
    limiter = Stubborn()
    async with box(Setup(rates=limiter)) as (agent, guest, identity):
        done = await follow(agent, guest, identity, program(PAGES, b"two", 3))
        assert done == (Ended(3), PAGES, b"two")
        assert limiter.calls > 6


async def test_the_end_of_a_program_is_reported() -> None:
    async with box() as (agent, guest, identity):
        done, out, _ = await follow(
            agent, guest, identity, program(b"so far", code=None, timed_out=True)
        )
        assert (done.code, out) == (124, b"so far")
        assert "timeout" in done.message
        done, _, _ = await follow(agent, guest, identity, program(code=None, signal="SIGSEGV"))
        assert (done.code, done.message) == (139, "SIGSEGV ended it.")
        guest.diagnosis = Diagnosis("command_not_found", "There is none.", "Use run_command.")
        done, _, _ = await follow(agent, guest, identity, program(code=127))
        assert (done.code, done.message) == (127, "There is none.\n  Use 'waggle exec'.")


async def test_invalid_arguments_are_refused() -> None:
    async with box() as (agent, _, identity):
        arguments = {"environment_id": identity, "command": ["x"], "timeout_seconds": 0}
        with pytest.raises(CallRefused, match="--timeout-seconds must be more than 0"):
            await run(agent, arguments, io.BytesIO(), io.BytesIO())


def test_a_lost_job_is_a_failure() -> None:
    result = {"status": "lost", "duration_ms": 10, "exit_code": None, "signal": None}
    assert ended(result) == Ended(1, "It was lost with its environment.")
    assert ended({**result, "status": "killed"}).code == 137
