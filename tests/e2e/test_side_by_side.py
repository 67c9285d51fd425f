# SPDX-License-Identifier: Apache-2.0
"""Two hypervisors in one server: what an agent sees, and where its environments stay.

Both are real QEMU machines; see `tests.support.side_by_side`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mcp import Client
from tests.support.waggle_client import call, connected, create, execute, refusal, status
from tests.support.waggle_process import Waggle, beside, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(600)]
PROGRAM = "tests.support.side_by_side"


async def said(client: Client, environment: str, code: str) -> str:
    return (await execute(client, environment, code)).strip()


async def of(client: Client, environment: str) -> str:
    """Return the hypervisor that is shown for an environment: none if it is the usual one."""
    return str(
        (await call(client, "get_environment", environment_id=environment)).get("hypervisor")
    )


@contextmanager
def started(server: Waggle, hypervisor: str) -> Generator[None]:
    """Run the server with this list, and kill it and its machines at the end of the block."""
    server.settings["hypervisor"] = hypervisor
    server.start()
    try:
        yield
    finally:
        server.kill_and_release()


async def test_everything_of_an_environment_goes_to_the_hypervisor_that_made_it(
    tmp_path: Path,
) -> None:
    settings = {**small(tmp_path), "max_environments": "4"}
    server = Waggle(tmp_path, settings, module=(PROGRAM, "freezes"))
    with started(server, "qemu"):
        async with connected(server) as client:
            old = await create(client, "shell")
            await said(client, old, "echo old >note")
            kept = await call(client, "snapshot_environment", environment_id=old)
            await call(client, "pause_environment", environment_id=old, to_disk=True)
    snapshot = str(kept["snapshot_id"])
    with started(server, "krun,qemu"):
        async with connected(server) as client:
            new = await create(client, "shell")
            await said(client, new, "echo new >note")
            assert (await of(client, new), await of(client, old)) == ("None", "qemu")
            await _copies_stay_with_theirs(client, old, snapshot)
            for one in (new, old):
                await call(client, "pause_environment", environment_id=one, to_disk=True)
    with started(server, "krun"):
        (event,) = server.events("paused_without_hypervisor")
        assert (event["environment"], event["needs"]) == (old, "qemu")
        async with connected(server) as client:
            assert await said(client, new, "cat note") == "new"
            await _is_kept_but_not_resumed(client, old, snapshot)
            await call(client, "pause_environment", environment_id=new, to_disk=True)
    with started(server, "qemu,krun"):
        async with connected(server) as client:
            assert await said(client, old, "cat note") == "old"
            assert await said(client, new, "cat note") == "new"
            assert (await of(client, new), await of(client, old)) == ("krun", "None")
            for one in (new, old):
                await call(client, "destroy_environment", environment_id=one)
        server.end()
        assert not server.remains()


async def _copies_stay_with_theirs(client: Client, old: str, snapshot: str) -> None:
    """Resume, fork, copy, roll back and restart one that was made with another hypervisor."""
    assert await said(client, old, "cat note") == "old"
    forked = await call(client, "fork_environment", environment_id=old)
    (fork,) = [copy["environment_id"] for copy in forked["environments"]]
    copy = str((await call(client, "create_environment", snapshot=snapshot))["environment_id"])
    assert [await of(client, one) for one in (fork, copy)] == ["qemu", "qemu"]
    assert [await said(client, one, "cat note") for one in (fork, copy)] == ["old", "old"]
    await call(client, "rollback_environment", environment_id=old, snapshot_id=snapshot)
    await call(client, "restart_environment", environment_id=copy)
    assert [await of(client, one) for one in (old, copy)] == ["qemu", "qemu"]
    for one in (fork, copy):
        await call(client, "destroy_environment", environment_id=one)


async def _is_kept_but_not_resumed(client: Client, old: str, snapshot: str) -> None:
    """The server does not run its hypervisor, and says what would help."""
    for tool, arguments in (
        ("execute", {"environment_id": old, "code": "true"}),
        ("resume_environment", {"environment_id": old}),
        ("create_environment", {"snapshot": snapshot}),
    ):
        refused = await refusal(client, tool, **arguments)
        assert refused["code"] == "unsupported"
        assert "qemu, which this server does not run" in refused["message"]
        assert "add qemu to WAGGLE_HYPERVISOR" in refused["hint"]
    listed = (await call(client, "list_environments"))["environments"]
    assert {one["environment_id"]: one["status"] for one in listed}[old] == "paused"


async def test_an_agent_that_says_it_will_fork_gets_a_machine_that_can(tmp_path: Path) -> None:
    settings = {**small(tmp_path), "warm_pool": "shell:1"}
    server = Waggle(tmp_path, settings, module=(PROGRAM, "plain"))
    with started(server, "krun,qemu"):
        await _readiness_says_what_each_can(server)
        async with connected(server) as client:
            usual = await create(client, "shell")
            refused = await refusal(client, "fork_environment", environment_id=usual)
            assert refused["code"] == "unsupported"
            assert "snapshots=true" in refused["hint"]
            await call(client, "destroy_environment", environment_id=usual)
            await _can_be_forked(client)
        made = beside(server, "env", "new", "shell", "--snapshots")
        assert made.returncode == 0, made.stderr
        server.end()
        assert not server.remains()
    with started(server, "krun"):
        async with connected(server) as client:
            refused = await refusal(client, "create_environment", runtime="shell", snapshots=True)
            assert refused["code"] == "unsupported"
            assert "it runs krun" in refused["message"]
            assert "Leave out snapshots." in refused["hint"]
            assert "WAGGLE_HYPERVISOR" in refused["hint"]
        failed = beside(server, "env", "new", "shell", "--snapshots")
        assert failed.returncode == 1
        assert "it runs krun" in failed.stderr


async def _readiness_says_what_each_can(server: Waggle) -> None:
    code, ready = await status(server, "/readyz")
    assert code == 200
    (plain, able) = ready["hypervisors"].values()
    assert "cannot be frozen" in plain
    assert "can be frozen" in able
    (listening,) = server.events("listening")
    assert listening["hypervisor"] == "krun (tcg), qemu (tcg)"
    assert listening["why"] in ready["why"]


async def _can_be_forked(client: Client) -> None:
    """One with snapshots=true is not the warm machine, and the same call finds it again."""
    wish: dict[str, object] = {"runtime": "shell", "snapshots": True, "idempotency_key": "one"}
    able = (await call(client, "create_environment", **wish))["environment_id"]
    assert (await call(client, "create_environment", **wish))["environment_id"] == able
    plain = {"runtime": "shell", "idempotency_key": "one"}
    refused = await refusal(client, "create_environment", **plain)
    assert refused["code"] == "idempotency_key_reused"
    assert await of(client, able) == "qemu"
    await said(client, able, "echo kept >note")
    forked = await call(client, "fork_environment", environment_id=able)
    (fork,) = [copy["environment_id"] for copy in forked["environments"]]
    assert await said(client, fork, "cat note") == "kept"
    for one in (able, fork):
        await call(client, "destroy_environment", environment_id=one)
