# SPDX-License-Identifier: Apache-2.0
"""`waggle logs`: what a job has printed, so far or to its end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest
from mcp import Client
from tests.cli.beside import Commands, Said
from tests.support.server import client, created, data_of, serving
from tests.support.waiting import until

from waggle.cli.env import logs
from waggle.domain.environment import State

pytestmark = pytest.mark.anyio


async def started(connected: Client, made: str, code: str) -> int:
    result = await connected.call_tool(
        "execute", {"environment_id": made, "code": code, "background": True}
    )
    return int(data_of(result)["job_id"])


async def test_both_streams_of_a_job_that_has_ended(tmp_path: Path) -> None:
    async with serving() as rig, client(rig) as connected:
        made = await created(connected)
        await started(connected, made, "echo out\nerr oops\nexit 3")
        commands = Commands(rig, tmp_path)
        for follow in ((), ("-f",)):
            assert await commands("logs", made, "1", *follow) == (0, "out\n", "")
            assert (await commands("logs", made, "1", "--stderr", *follow))[1] == "oops\n"


async def test_a_running_job_is_shown_so_far_or_followed_to_its_end(tmp_path: Path) -> None:
    async with serving() as rig, client(rig) as connected:
        made = await created(connected)
        await started(connected, made, "echo one\nhang\necho two")
        await rig.host.only.started.wait()
        commands = Commands(rig, tmp_path)
        assert await commands("logs", made, "1") == (0, "one\n", "")
        shown: list[tuple[int, str, str]] = []

        async def follow() -> None:
            shown.append(await commands("logs", "-f", made, "1"))

        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await anyio.sleep(1)
            assert shown == []
            rig.host.only.release.set()
        assert shown == [(0, "one\ntwo\n", "")]


async def test_a_paused_job_is_followed_again_when_it_is_resumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving() as rig, client(rig) as connected:
        made = await created(connected)
        await started(connected, made, "echo one\nhang\necho two")
        await rig.host.only.started.wait()
        called, said = {"environment_id": made}, Said(capsys)
        await connected.call_tool("pause_environment", called)
        assert await logs._copy(connected, made, 1, "stdout", follow=False) == 0
        assert capsys.readouterr().out.endswith("one\n")  # after a log, or without

        async with anyio.create_task_group() as group:
            follow = partial(logs._copy, connected, made, 1, "stdout", follow=True)
            group.start_soon(follow)
            await until(lambda: said.has(f"It is paused. 'waggle env resume {made}' resumes"))
            assert rig.services.environments.all()[0].state is State.PAUSED
            await connected.call_tool("resume_environment", called)
            rig.host.only.release.set()
        assert said.has("It is resumed.")


async def test_output_that_is_not_kept_is_reported(tmp_path: Path) -> None:
    async with serving() as rig, client(rig) as connected:
        made = await created(connected)
        await started(connected, made, f"flood {(1 << 23) + (1 << 20)}\necho end")
        status, out, err = await Commands(rig, tmp_path)("logs", made, "1")
        assert (status, out[-5:]) == (1, "xend\n")
        assert "bytes are lost" in err


async def test_a_job_that_does_not_exist(tmp_path: Path) -> None:
    async with serving() as rig, client(rig) as connected:
        made = await created(connected)
        for more in ((), ("-f",)):
            status, _, err = await Commands(rig, tmp_path)("logs", made, "7", *more)
            assert (status, "There is no job 7" in err) == (1, True), err
