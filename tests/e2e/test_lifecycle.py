# SPDX-License-Identifier: Apache-2.0
"""Environments under pressure: the cap, concurrent creates, lost clients, machines that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from tests.support.server import (
    ERAS,
    INITIALIZE,
    MODERN,
    data_of,
    error_of,
    text_of,
)
from tests.support.waggle_client import (
    CREATE,
    bare,
    call,
    connected,
    create,
    execute,
    heard,
    refusal,
    streaming,
    until,
    with_template,
)
from tests.support.waggle_process import Waggle, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=["off", "on"], ids=["booted", "resumed"])
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Generator[Waggle]:
    """A server whose machines boot, or resume from a template."""
    directory = tmp_path_factory.mktemp("lifecycle")
    settings = {**small(directory), "max_environments": "2", "templates": str(request.param)}
    with running(directory, settings) as server:
        if request.param == "on":
            anyio.run(with_template, server)
        yield server


@pytest.fixture(autouse=True)
def nothing_remains(server: Waggle) -> Generator[None]:
    """Require that a test leaves no environment; a cancelled one may take some time to end."""
    yield
    for _ in range(200):
        if not server.remains():
            return
        time.sleep(0.05)
    assert server.remains() == {}


async def test_of_eight_concurrent_creates_two_succeed(server: Waggle) -> None:
    made: list[str] = []
    refused: list[dict[str, Any]] = []
    booting: list[tuple[float, float]] = []

    async def one(era: str) -> None:
        times: dict[str, float] = {}

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            times[str(message)] = time.monotonic()

        async with connected(server, era) as client:
            result = await client.call_tool(*CREATE, progress_callback=on_progress)
        if result.is_error:
            refused.append(error_of(result))
        else:
            made.append(data_of(result)["environment_id"])
            booting.append((times["Booting the machine"], times["Connecting"]))

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, ERAS[number % 2])
    assert len(made) == len(set(made)) == 2
    assert {(error["code"], error["retryable"]) for error in refused} == {
        ("max_environments", True)
    }
    assert len(refused) == 6
    assert "Destroy an environment" in refused[0]["hint"]
    assert len(server.machines()) == 2
    latest_start, earliest_end = max(s for s, _ in booting), min(e for _, e in booting)
    assert latest_start < earliest_end, "they boot at the same time"

    async with connected(server) as client:
        for environment in made:
            await call(client, "destroy_environment", environment_id=environment)


@pytest.mark.parametrize("era", ERAS)
async def test_a_create_repeated_after_hanging_up_continues_it(server: Waggle, era: str) -> None:
    async with streaming(server, *bare(*CREATE, era)) as lines:
        await heard(lines, "Booting the machine")
        assert len(server.machines()) <= 1
        (directory,) = server.directories()
    async with connected(server) as client:
        made = await call(client, *CREATE[:1], **CREATE[1])
        assert made["environment_id"] == directory, "the same call takes it up"
        assert len(server.machines()) == 1
        await call(client, "destroy_environment", environment_id=directory)


async def test_a_create_cancelled_in_a_session_frees_its_place(server: Waggle) -> None:
    async with httpx2.AsyncClient(timeout=60) as http:
        opened = await http.post(server.mcp, json=INITIALIZE, headers=bare("", {})[1])
        session = {**bare("", {})[1], "Mcp-Session-Id": opened.headers["mcp-session-id"]}
        message = {**bare(*CREATE)[0], "id": 77}
        async with streaming(server, message, session) as lines:
            await heard(lines, "Booting the machine")
            cancel = {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": 77},
            }
            assert (await http.post(server.mcp, json=cancel, headers=session)).status_code == 202
        await http.delete(server.mcp, headers=session)
    async with connected(server) as client:
        (left,) = (await call(client, "list_environments"))["environments"]
        others = [await create(client) for _ in range(2)]  # as many as the cap allows
        listed = (await call(client, "list_environments"))["environments"]
        assert left["environment_id"] not in [entry["environment_id"] for entry in listed]
        for environment in others:
            await call(client, "destroy_environment", environment_id=environment)


async def test_an_environment_that_is_being_created_can_be_destroyed(server: Waggle) -> None:
    async with connected(server) as client, streaming(server, *bare(*CREATE)) as lines:
        await heard(lines, "Booting the machine")
        (row,) = (await call(client, "list_environments"))["environments"]
        assert row["status"] == "creating"
        assert (await refusal(client, "execute", environment_id=row["environment_id"], code="x"))[
            "code"
        ] == "not_running"
        await call(client, "destroy_environment", environment_id=row["environment_id"])
        assert server.remains() == {}
        assert "was destroyed while it was created" in await heard(lines, "isError")


async def test_a_machine_killed_during_a_call_frees_its_place(server: Waggle) -> None:
    async with connected(server) as client:
        environment = await create(client, "shell")
        (machine,) = server.machines()
        results: list[Any] = []
        killed = 0.0

        async def work() -> None:
            code = "echo >started; busybox sleep 987"
            arguments = {"environment_id": environment, "code": code}
            results.append(await client.call_tool("execute", arguments))
            results.append(time.monotonic())

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await until(lambda: _exists(client, environment, "started"))
            os.kill(machine, signal.SIGKILL)
            killed = time.monotonic()
        result, answered = results
        assert answered - killed < 2
        assert error_of(result)["code"] == "guest_lost"
        assert "QEMU was killed by SIGKILL" in text_of(result)
        assert "create a new environment" in text_of(result)

        (row,) = (await call(client, "list_environments"))["environments"]
        assert (row["status"], "SIGKILL" in row["error"]) == ("error", True)
        refused = await refusal(client, "execute", environment_id=environment, code="true")
        assert refused["code"] == "not_running"
        assert "SIGKILL" in refused["message"]
        assert server.remains() == {}, "what it held is free before anybody destroys it"
        two = [await create(client, "shell") for _ in range(2)]  # nor does it hold a slot
        for environment_id in (environment, *two):
            await call(client, "destroy_environment", environment_id=environment_id)
        assert (await call(client, "list_environments")).get("count", 0) == 0


async def _exists(client: Client, environment: str, path: str) -> bool:
    result = await client.call_tool("read_file", {"environment_id": environment, "path": path})
    return not result.is_error


async def test_five_rounds_leave_the_server_as_it_was(server: Waggle) -> None:
    async def one_round() -> None:
        async with connected(server, MODERN) as client:
            environment = await create(client, "shell")
            await execute(client, environment, "echo hello")
            await call(client, "write_file", environment_id=environment, path="a", content="b")
            await call(client, "destroy_environment", environment_id=environment)

    children = server.children()
    await one_round()  # whatever is opened once and kept
    descriptors = server.descriptors()
    for _ in range(5):
        await one_round()
    await until(lambda: server.descriptors() <= descriptors, what="no descriptor more than before")
    await until(lambda: server.children() == children, what="what waited before waits again")
