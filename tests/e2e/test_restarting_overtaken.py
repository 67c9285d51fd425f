# SPDX-License-Identifier: Apache-2.0
"""Restarts of real machines that are cut short: by a destroy, or by the end of the server."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from tests.support.server import error_of
from tests.support.waggle_client import call, connected, create, execute, until
from tests.support.waggle_process import Waggle, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]
STUBBORN = "trap '' TERM; echo up; while :; do busybox sleep 600; done"
"""A program that uses all the time it is given to end."""
PHASES = ["end", "boot"]
SOON = 4.0
"""Seconds in which a machine is killed and freed, on a slow host; the time programs have is 5 s."""


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    own = {"max_environments": "1", "shutdown_timeout": "10ms", "toolsets": "full"}
    server = Waggle(tmp_path, {**small(tmp_path), **own})
    server.start()
    yield server
    server.kill_and_release()


async def has_begun(client: Client, here: dict[str, str]) -> bool:
    read = await call(client, "read_job", **here, job_id=1, stream="stdout")
    return read.get("content") == "up\n"


@asynccontextmanager
async def restarting(
    server: Waggle, client: Client, phase: str
) -> AsyncGenerator[tuple[str, list[str]]]:
    """Restart an environment until it is in that phase; yield its id, and how the call ends."""
    box = await create(client, "shell")
    here = {"environment_id": box}
    await call(client, "execute", **here, code=STUBBORN, background=True)
    await until(partial(has_begun, client, here), 30)
    (before,) = server.machines()
    outcomes: list[str] = []

    async def restart() -> None:
        async with connected(server) as other:
            try:
                result = await other.call_tool("restart_environment", here)
            except MCPError as error:
                outcomes.append(error.error.message)
            else:
                outcomes.append(error_of(result)["message"] if result.is_error else "done")

    async def is_there() -> bool:
        seen = await call(client, "get_environment", **here)
        is_old = server.machines() == [before]
        return seen["status"] == "resuming" and (
            is_old if phase == "end" else bool(server.machines()) and not is_old
        )

    async with anyio.create_task_group() as group:
        group.start_soon(restart)
        await until(is_there, 30)
        yield box, outcomes


@pytest.mark.parametrize("phase", PHASES)
async def test_a_destroy_cuts_a_restart_short(server: Waggle, phase: str) -> None:
    async with connected(server) as client:
        async with restarting(server, client, phase) as (box, outcomes):
            began = time.monotonic()
            ended = await call(client, "destroy_environment", environment_id=box)
            taken = time.monotonic() - began
        assert (ended["status"], server.remains()) == ("destroyed", {})
        assert taken < SOON
        assert outcomes == [f"Environment {box} was destroyed before its restart."]
        again = await create(client, "shell")  # in the only slot
        await execute(client, again, "echo up")
        await call(client, "destroy_environment", environment_id=again)
    assert server.remains() == {}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", [Waggle.end, Waggle.kill])
async def test_the_end_of_the_server_in_the_middle_of_a_restart_leaves_nothing(
    server: Waggle, phase: str, how: Callable[[Waggle], None]
) -> None:
    with anyio.CancelScope() as clients:
        async with connected(server) as client, restarting(server, client, phase):
            await anyio.to_thread.run_sync(how, server)
            clients.cancel()
    await until(lambda: not server.machines() and not server.reserved(), 20)
    if how is Waggle.end:
        assert server.remains() == {}
    server.start()
    async with connected(server) as client:
        assert (await call(client, "list_environments")).get("environments", []) == []
        box = await create(client, "shell")
        await call(client, "restart_environment", environment_id=box)
        await call(client, "destroy_environment", environment_id=box)
    assert server.remains() == {}
