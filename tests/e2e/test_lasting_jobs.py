# SPDX-License-Identifier: Apache-2.0
"""Jobs and contexts that outlive pauses, copies and the death of their server, over MCP."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.waggle_client import call, connected, create, execute, refusal, until
from tests.support.waggle_process import Waggle, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]
COUNT = (
    "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i; busybox usleep 100000; done; echo end"
)
KILLS = 3


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    """A running server; it is killed at the end of the test."""
    server = Waggle(tmp_path, {**small(tmp_path), "max_environments": "4"})
    server.start()
    yield server
    server.kill_and_release()


def whole(printed: str) -> int:
    """Check that every line is there and return how many there are."""
    lines = printed.split()
    numbers = [line for line in lines if line != "end"]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    return len(numbers)


async def test_a_job_and_a_context_go_on_after_their_server_was_killed(server: Waggle) -> None:
    async with connected(server) as client:
        identity = await create(client, "shell")
        here = {"environment_id": identity}
        await execute(client, identity, "n=40; cd /tmp", context="main")
        await call(client, "execute", **here, code=COUNT, background=True)
    seen = job = 0
    said = ""
    for _ in range(KILLS):
        async with connected(server) as client:
            paused = await call(client, "pause_environment", **here, to_disk=True)
            assert paused["status"] == "paused"
        server.send(signal.SIGKILL)
        await server.wait()
        await until(lambda: server.machines() == [])
        server.start()
        async with connected(server) as client:
            jobs = (await call(client, "read_job", **here))["jobs"]
            (job,) = [job["job_id"] for job in jobs if job["summary"].startswith("i=0")]
            waited = await call(client, "wait_job", **here, job_id=job, wait_seconds=2)
            assert waited["status"] == "running"
            printed = whole(waited["stdout"])
            assert printed > seen
            seen = printed
            said = await execute(client, identity, "n=$((n+1)); echo $n $PWD", context="main")
            assert said.split()[1] == "/tmp"
    assert said.split()[0] == str(40 + KILLS)
    async with connected(server) as client:
        await execute(client, identity, "touch /tmp/enough")
        ended = await call(client, "wait_job", **here, job_id=job, wait_seconds=60)
        assert ended["status"] == "exited"
        assert ended["stdout"].endswith("end\n")
        whole(ended["stdout"])
        await call(client, "destroy_environment", **here)
    assert server.remains() == {}


async def test_jobs_that_ended_with_their_server_are_reported_as_gone(server: Waggle) -> None:
    async with connected(server) as client:
        identity = await create(client, "shell")
        await call(client, "execute", environment_id=identity, code=COUNT, background=True)
    server.send(signal.SIGKILL)
    await server.wait()
    await until(lambda: server.machines() == [])
    server.start()
    async with connected(server) as client:
        gone = await refusal(client, "read_job", environment_id=identity, job_id=1)
        assert gone["code"] == "not_found"
    assert server.remains() == {}


async def test_a_fork_has_its_own_copy_of_each_job_and_context(server: Waggle) -> None:
    async with connected(server) as client:
        origin = await create(client, "shell")
        await execute(client, origin, "n=1", context="main")
        await execute(client, origin, "echo before")
        counting = await call(client, "execute", environment_id=origin, code=COUNT, background=True)
        forked = await call(client, "fork_environment", environment_id=origin, count=2)
        first, second = [copy["environment_id"] for copy in forked["environments"]]
        for copy, value in ((first, 2), (second, 3)):
            said = await execute(client, copy, f"n=$((n+{value})); echo $n", context="main")
            assert said == f"{1 + value}\n"
        assert await execute(client, origin, "echo $n", context="main") == "1\n"
        read = await call(client, "read_job", environment_id=first, job_id=3, stream="stdout")
        assert read["content"] == "before\n"
        await execute(client, first, "touch /tmp/enough")
        number = counting["job_id"]
        ended = await call(client, "wait_job", environment_id=first, job_id=number, wait_seconds=60)
        assert ended["status"] == "exited"
        whole(ended["stdout"])
        running = await call(
            client, "wait_job", environment_id=second, job_id=number, wait_seconds=1
        )
        assert running["status"] == "running"
        whole(running["stdout"])
        for environment in (origin, first, second):
            await call(client, "destroy_environment", environment_id=environment)
    assert server.remains() == {}


async def test_a_rollback_goes_on_with_the_jobs_of_its_snapshot(server: Waggle) -> None:
    async with connected(server) as client:
        identity = await create(client, "shell")
        here = {"environment_id": identity}
        job = (await call(client, "execute", **here, code=COUNT, background=True))["job_id"]
        cell = await call(client, "execute", **here, code=COUNT, context="main", background=True)
        kept = await call(client, "snapshot_environment", **here)
        later = await call(client, "execute", **here, code=COUNT, background=True)
        await call(client, "rollback_environment", **here, snapshot_id=kept["snapshot_id"])
        gone = await refusal(client, "read_job", **here, job_id=later["job_id"])
        assert gone["code"] == "job_not_found"
        await execute(client, identity, "touch /tmp/enough")
        for number in (job, cell["job_id"]):
            ended = await call(client, "wait_job", **here, job_id=number, wait_seconds=60)
            assert (ended["status"], ended["exit_code"]) == ("exited", 0), ended
            assert ended["stdout"].endswith("end\n")
            whole(ended["stdout"])
        await call(client, "delete_snapshot", snapshot_id=kept["snapshot_id"])
        await call(client, "destroy_environment", **here)
    assert server.remains() == {}
