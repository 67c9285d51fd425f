# SPDX-License-Identifier: Apache-2.0
"""Live interpreters through pauses, forks, rollbacks and a server's end, as an agent sees them."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.support.waggle_client import call, connected, create, until
from tests.support.waggle_process import Waggle, have_templates

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]
COUNT = "import time\nfor n in range(60):\n    print(n, flush=True); time.sleep(0.25)\nx = n"
COUNTED = "".join(f"{number}\n" for number in range(60))


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    """A running server; it is killed at the end of the test."""
    have_templates("python")
    server = Waggle(tmp_path, {"default_network": "none", "max_environments": "4"})
    server.start()
    yield server
    server.kill_and_release()


async def cell(client: Client, environment: str, code: str, **more: object) -> dict[str, Any]:
    return await call(
        client, "execute", environment_id=environment, code=code, context="main", **more
    )


async def said(client: Client, environment: str, code: str) -> str:
    result = await cell(client, environment, code, wait_seconds=120)
    assert result.get("exit_code") == 0, result
    return str(result.get("stdout", ""))


async def counting(client: Client, environment: str) -> int:
    """Start a cell that counts, and return its job once it prints."""
    job = int((await cell(client, environment, COUNT, wait_seconds=0))["job_id"])

    async def has_begun() -> bool:
        shown = await call(client, "read_job", environment_id=environment, job_id=job)
        return "3\n" in shown.get("stdout", "")

    await until(has_begun, 60, "the cell counts")
    return job


async def counted(client: Client, environment: str, job: int) -> None:
    """Require that the counting cell goes on to its end, without a gap, and leaves its state."""
    result = await call(
        client, "wait_job", environment_id=environment, job_id=job, wait_seconds=120
    )
    assert (result["status"], result.get("exit_code")) == ("exited", 0), result
    assert result["stdout"] == COUNTED
    assert await said(client, environment, "print(x, y)") == "59 7\n"


@pytest.mark.parametrize("to_disk", [False, True])
async def test_a_cell_goes_on_after_a_pause(server: Waggle, to_disk: bool) -> None:
    async with connected(server) as client:
        environment = await create(client)
        await said(client, environment, "y = 7")
        job = await counting(client, environment)
        await call(client, "pause_environment", environment_id=environment, to_disk=to_disk)
        await counted(client, environment, job)


async def test_a_fork_in_a_cell_goes_on_in_both(server: Waggle) -> None:
    async with connected(server) as client:
        origin = await create(client)
        await said(client, origin, "y = 7")
        job = await counting(client, origin)
        forked = await call(client, "fork_environment", environment_id=origin, count=1)
        (copy,) = [each["environment_id"] for each in forked["environments"]]
        for environment in (origin, copy):
            await counted(client, environment, job)
        await said(client, copy, "y = 8")
        assert await said(client, origin, "print(y)") == "7\n"
        assert await said(client, copy, "print(y)") == "8\n"
        stopped = await cell(client, copy, "exit(3)", wait_seconds=60)
        assert stopped["diagnosis"]["code"] == "context_ended"
        assert await said(client, origin, "print(y)") == "7\n"


async def test_a_rollback_brings_a_live_context_back(server: Waggle) -> None:
    async with connected(server) as client:
        environment = await create(client)
        await said(client, environment, "y = 7")
        kept = await call(client, "snapshot_environment", environment_id=environment, name="then")
        await said(client, environment, "y = 8; z = 9")
        late = await counting(client, environment)
        await call(
            client,
            "rollback_environment",
            environment_id=environment,
            snapshot_id=kept["snapshot_id"],
        )
        assert await said(client, environment, "print(y, 'z' in vars())") == "7 False\n"
        listed = await call(client, "list_jobs", environment_id=environment)
        assert all(item["job_id"] != late or item["status"] != "running" for item in listed["jobs"])
        await call(client, "delete_snapshot", snapshot_id=kept["snapshot_id"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_context_on_disk_outlives_the_server(
    server: Waggle, number: signal.Signals
) -> None:
    async with connected(server) as client:
        environment = await create(client)
        await said(client, environment, "y = 7")
        job = await counting(client, environment)
        await call(client, "pause_environment", environment_id=environment, to_disk=True)
    server.send(number)
    await server.wait()
    await until(lambda: server.machines() == [])
    server.start()
    async with connected(server) as client:
        assert await said(client, environment, "print(y)") == "7\n"
        await counted(client, environment, job)
        await call(client, "destroy_environment", environment_id=environment)
    assert server.remains() == {}
