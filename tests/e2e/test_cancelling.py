# SPDX-License-Identifier: Apache-2.0
"""Cancelled calls: a call that its client gives up ends in the guest, with all its processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import anyio
import pytest
from mcp import Client
from tests.support.server import ERAS
from tests.support.waggle_client import bare, call, connected, create, heard, streaming, until
from tests.support.waggle_process import Waggle, running, small
from tests.support.waggle_stdio import Desktop

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

THREE = "busybox sleep 987 & busybox setsid busybox sleep 987 & echo up; busybox sleep 987"
LIMIT = 2.0
LOOKING = 2.0
"""Seconds that one check takes on a busy machine without hardware virtualisation."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Waggle]:
    directory = tmp_path_factory.mktemp("cancelling")
    with running(directory, small(directory)) as server:
        yield server


async def sleepers(client: Client, environment: str) -> int:
    code = "busybox ps | busybox grep -c '[s]leep 987'; true"
    ran = await call(client, "execute", environment_id=environment, code=code)
    return int(ran["stdout"])


@contextlib.asynccontextmanager
async def three_that_end(client: Client, environment: str) -> AsyncGenerator[None]:
    """Cancel the body once its call has started three processes; check that they end in time."""

    async def are(wanted: int) -> bool:
        return await sleepers(client, environment) == wanted

    async with anyio.create_task_group() as group:

        async def give_up() -> None:
            await until(lambda: are(3), what="all three run")
            group.cancel_scope.cancel()

        group.start_soon(give_up)
        yield
    given_up = time.monotonic()
    await until(lambda: are(0), what="all are gone")
    assert time.monotonic() - given_up < LIMIT + LOOKING


async def cancelled_by(canceller: Client, looker: Client) -> None:
    environment = await create(looker, "shell")
    program = ["busybox", "sh", "-c", THREE]
    for tool, what in (("execute", {"code": THREE}), ("run_command", {"command": program})):
        async with three_that_end(looker, environment):
            arguments = {"environment_id": environment, **what, "timeout_seconds": 200}
            pytest.fail(f"answered: {await canceller.call_tool(tool, arguments)}")
    await call(looker, "destroy_environment", environment_id=environment)


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_cancelled_over_http_ends_its_processes(server: Waggle, era: str) -> None:
    async with connected(server, era) as canceller, connected(server) as looker:
        await cancelled_by(canceller, looker)


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_cancelled_over_stdio_ends_its_processes(tmp_path: Path, era: str) -> None:
    desktop = Desktop(tmp_path, small(tmp_path))
    async with desktop.client(tmp_path / "log", era) as client:
        await cancelled_by(client, client)
    assert desktop.left() == {}


@pytest.mark.parametrize("era", ERAS)
async def test_hanging_up_on_a_call_ends_its_processes(server: Waggle, era: str) -> None:
    async with connected(server) as client:
        environment = await create(client, "shell")
        arguments = {"environment_id": environment, "code": THREE, "timeout_seconds": 200}
        async with (
            three_that_end(client, environment),
            streaming(server, *bare("execute", arguments, era)) as lines,
        ):
            await heard(lines, "never")
        await call(client, "destroy_environment", environment_id=environment)
