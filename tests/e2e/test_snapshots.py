# SPDX-License-Identifier: Apache-2.0
"""Forks, snapshots, pause to disk and server restarts over MCP, with real machines."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from mcp import Client
from tests.support.waggle_client import (
    bare,
    call,
    connected,
    create,
    execute,
    refusal,
    streaming,
    until,
)
from tests.support.waggle_process import Waggle, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]
COUNT = (
    "echo 0 >/tmp/n; (i=0; while :; do i=$((i+1)); echo $i >/tmp/m; busybox mv /tmp/m /tmp/n; "
    "busybox usleep 100000; done) </dev/null >/dev/null 2>&1 &"
)


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    """A running server; it is killed at the end of the test."""
    server = Waggle(tmp_path, {**small(tmp_path), "max_environments": "4"})
    server.start()
    yield server
    server.kill_and_release()


async def said(client: Client, environment: str, code: str) -> str:
    return (await execute(client, environment, code)).strip()


async def test_forks_are_independent_and_a_rollback_restores_files(server: Waggle) -> None:
    async with connected(server) as client:
        origin = await create(client, "shell")
        await said(client, origin, f"echo before >note; {COUNT}")
        kept = await call(client, "snapshot_environment", environment_id=origin, name="before")
        await said(client, origin, "echo after >note")
        forked = await call(client, "fork_environment", environment_id=origin, count=2)
        first, second = [copy["environment_id"] for copy in forked["environments"]]
        await said(client, first, "echo first >note")
        assert await said(client, second, "cat note") == "after"
        assert await said(client, origin, "cat note") == "after"
        seen = int(await said(client, second, "cat /tmp/n"))
        await until(lambda: _more(client, second, seen), what="a program continues in a fork")
        who = "hostname; cat /etc/machine-id"
        hosts = [await said(client, copy, who) for copy in (first, second)]
        assert hosts[0] != hosts[1]

        await call(
            client,
            "rollback_environment",
            environment_id=origin,
            snapshot_id=kept["snapshot_id"],
        )
        assert await said(client, origin, "cat note") == "before"
        made = await call(client, "create_environment", snapshot=kept["snapshot_id"])
        assert await said(client, made["environment_id"], "cat note") == "before"
        refused = await refusal(client, "fork_environment", environment_id=origin, count=1)
        assert refused["code"] == "max_environments"
        (row,) = (await call(client, "list_snapshots"))["snapshots"]
        assert row["name"] == "before"
        await call(client, "delete_snapshot", snapshot_id=kept["snapshot_id"])
        for environment_id in (origin, first, second, made["environment_id"]):
            await call(client, "destroy_environment", environment_id=environment_id)
    assert server.remains() == {}


async def _more(client: Client, environment: str, seen: int) -> bool:
    return int(await said(client, environment, "cat /tmp/n")) > seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_pause_to_disk_outlives_the_server(server: Waggle, number: signal.Signals) -> None:
    async with connected(server) as client:
        sleeper, other = await create(client, "shell"), await create(client, "shell")
        await said(client, sleeper, f"echo kept >note; {COUNT}")
        kept = await call(client, "snapshot_environment", environment_id=other)
        await call(client, "pause_environment", environment_id=sleeper, to_disk=True)
        assert len(server.machines()) == 1
    server.send(number)
    await server.wait()
    await until(lambda: server.machines() == [])
    server.start()
    async with connected(server) as client:
        (row,) = (await call(client, "list_environments"))["environments"]
        assert (row["environment_id"], row["status"]) == (sleeper, "paused")
        assert await said(client, sleeper, "cat note") == "kept"
        seen = int(await said(client, sleeper, "cat /tmp/n"))
        await until(lambda: _more(client, sleeper, seen), what="a program continues")
        (snapshot,) = (await call(client, "list_snapshots"))["snapshots"]
        assert snapshot["snapshot_id"] == kept["snapshot_id"]
        await call(client, "destroy_environment", environment_id=sleeper)
        await call(client, "delete_snapshot", snapshot_id=kept["snapshot_id"])
    assert server.remains() == {}


async def test_a_server_killed_during_a_freeze_loses_only_that_machine(server: Waggle) -> None:
    async with connected(server) as client:
        environment = await create(client, "shell")
        await said(client, environment, "dd if=/dev/urandom of=/dev/shm/x bs=1M count=60")
    files = server.data / "environments" / environment
    arguments = {"environment_id": environment, "to_disk": True}
    async with streaming(server, *bare("pause_environment", arguments)):
        await until(lambda: (files / ".tmp-frozen").exists() or (files / "frozen").exists())
        server.kill()
    await until(lambda: server.machines() == [])
    server.start()
    async with connected(server) as client:
        for row in (await call(client, "list_environments")).get("environments", ()):
            assert row["status"] == "paused"
            await call(client, "destroy_environment", environment_id=row["environment_id"])
    assert server.remains() == {}
