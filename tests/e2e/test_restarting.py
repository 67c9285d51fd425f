# SPDX-License-Identifier: Apache-2.0
"""Environments that broke their machine are restarted over MCP, with real machines."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from mcp import Client
from tests.support.waggle_client import call, connected, create, execute, refusal, with_template
from tests.support.waggle_process import Waggle, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]
NO_LOGIN = "busybox mount --bind /dev/null /.waggle/bin/session"
NO_PROGRAMS = "busybox rm -rf /bin /usr /lib /sbin"
NO_MEMORY = (
    "echo 0 >/.waggle/cgroup/cgroup.procs; busybox mkdir -p /full; "
    "busybox mount -t tmpfs -o size=100% full /full; busybox dd if=/dev/zero of=/full/it bs=1M"
)
BOMB = "f() { f | f & }; f"


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    server = Waggle(tmp_path, {**small(tmp_path), "max_environments": "4", "toolsets": "full"})
    server.start()
    yield server
    server.kill_and_release()


async def said(client: Client, environment: str, code: str, **how: object) -> str:
    return (await execute(client, environment, code, **how)).strip()


async def break_it(client: Client, environment: str, code: str) -> None:
    """Break the machine as root, whatever becomes of the call."""
    arguments = {"environment_id": environment, "code": code, "background": True, "user": "root"}
    await client.call_tool("execute", arguments)


async def test_a_machine_without_ssh_is_restarted_and_copied_then(server: Waggle) -> None:
    """It began as a copy of a template; its identity was never on its disk."""
    async with connected(server) as client:
        await with_template(server)
        box = await create(client, "shell", name="box", env={"OWN": "x"})
        here = {"environment_id": box}
        assert server.events("environment_created")[-1]["template"]
        await said(client, box, "echo kept >note")
        await said(client, box, "context=1", context="main")
        job = (await call(client, "execute", **here, code="sleep 600", background=True))["job_id"]
        before = await said(client, box, "hostname; cat /etc/machine-id; echo $OWN")
        ran = await said(client, box, "cat /proc/sys/kernel/random/boot_id")
        await said(client, box, NO_LOGIN, user="root")
        lost = await refusal(client, "execute", **here, code="id")
        assert "restart_environment" in lost["hint"]

        done = await call(client, "restart_environment", **here)
        assert (done["status"], done.get("killed", False)) == ("running", False)
        assert {f"job {job}"} < {*done["gone"]}
        assert await said(client, box, "cat note") == "kept"
        assert await said(client, box, "hostname; cat /etc/machine-id; echo $OWN") == before
        assert await said(client, box, "cat /proc/sys/kernel/random/boot_id") != ran
        assert await said(client, box, "echo ${context:-gone}", context="main") == "gone"
        lost = await call(client, "read_job", **here, job_id=job, stream="stdout")
        assert lost["status"] == "lost"

        kept = await call(client, "snapshot_environment", **here)
        await said(client, box, "echo later >note")
        made = await call(client, "create_environment", snapshot=kept["snapshot_id"])
        (fork,) = (await call(client, "fork_environment", **here, count=1))["environments"]
        copies = {made["environment_id"]: "kept", fork["environment_id"]: "later"}
        for copy, note in copies.items():
            assert await said(client, copy, "cat note") == note
        await call(client, "restart_environment", environment_id=fork["environment_id"])
        assert await said(client, fork["environment_id"], "cat note") == "later"
        for environment in (box, *copies):
            await call(client, "destroy_environment", environment_id=environment)
    assert server.remains() == {}


@pytest.mark.parametrize("harm", [NO_PROGRAMS, NO_MEMORY, BOMB], ids=["rm", "memory", "bomb"])
async def test_a_broken_machine_is_restarted(server: Waggle, harm: str) -> None:
    async with connected(server) as client:
        box = await create(client, "shell")
        await said(client, box, "echo kept >note")
        await break_it(client, box, harm)
        done = await call(client, "restart_environment", environment_id=box, force=True)
        assert done.get("killed", False) is False
        assert await said(client, box, "/.waggle/bin/busybox cat note") == "kept"
        await call(client, "destroy_environment", environment_id=box)
    assert server.remains() == {}


async def test_a_machine_that_hangs_is_killed_and_restarted(server: Waggle) -> None:
    async with connected(server) as client:
        box = await create(client, "shell")
        await said(client, box, "echo kept >note; busybox sync")
        (vmm,) = server.machines()
        os.kill(vmm, signal.SIGSTOP)
        done = await call(client, "restart_environment", environment_id=box)
        assert done["killed"] is True
        assert "power cut" in done["note"]
        assert await said(client, box, "cat note") == "kept"
        await call(client, "destroy_environment", environment_id=box)
    assert server.remains() == {}


async def test_programs_end_before_a_destroy(server: Waggle) -> None:
    async with connected(server) as client:
        box = await create(client, "shell")
        port = {"environment_id": box}
        trap = "trap 'exit 3' TERM; echo up; while :; do busybox sleep 0.1; done"
        await call(client, "execute", **port, code=trap, background=True)
        ended = await call(client, "destroy_environment", **port, grace_seconds=10)
        assert ended["status"] == "destroyed"
    assert server.remains() == {}
