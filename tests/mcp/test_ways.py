# SPDX-License-Identifier: Apache-2.0
"""Several ways from one state: code in forks, side by side, and the fork that is kept."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from mcp import Client
from tests.support.fake_contexts import runtimes
from tests.support.fakes import FakeGuest
from tests.support.server import Setup, client, created, data_of, error_of, serving, text_of

from waggle.domain.errors import GuestLost

pytestmark = pytest.mark.anyio


async def forks(agent: Client, origin: str, **more: Any) -> list[dict[str, Any]]:
    made = await agent.call_tool("fork_environment", {"environment_id": origin, **more})
    return data_of(made)["environments"]


async def names(agent: Client) -> list[str]:
    listed = data_of(await agent.call_tool("list_environments", {}))
    return [item["name"] for item in listed.get("environments", [])]


async def test_each_fork_runs_its_code_and_a_failure_stops_no_other() -> None:
    async with serving() as rig, client(rig) as agent:
        origin = await created(agent)
        one, two = await forks(agent, origin, code=["echo a", "err b\nexit 3"])
        assert (one["result"]["exit_code"], one["result"]["stdout"]) == (0, "a\n")
        assert (two["result"]["exit_code"], two["result"]["stderr"]) == (3, "b\n")
        assert rig.host.guests[origin].commands == []


@pytest.mark.parametrize(
    "lives, given, found",
    [
        (("a",), {}, ("value\n", "value\n")),
        (("a",), {"context": "new"}, ("", "")),
        (("a", "b"), {}, ("", "")),  # either could be meant
        ((), {}, ("", "")),
    ],
)
async def test_code_runs_in_the_only_context(
    lives: tuple[str, ...], given: dict[str, str], found: tuple[str, str]
) -> None:
    async with serving(Setup(runtimes=runtimes())) as rig, client(rig) as agent:
        origin = await created(agent)
        for name in lives:
            cell = {"environment_id": origin, "context": name, "code": "set x value"}
            assert data_of(await agent.call_tool("execute", cell))["exit_code"] == 0
        made = await forks(agent, origin, code="get x", count=2, **given)
        assert tuple(fork["result"].get("stdout", "") for fork in made) == found


async def test_one_piece_is_for_all_and_a_fork_that_is_lost_says_so() -> None:
    async with serving() as rig, client(rig) as agent:
        origin = await created(agent)

        def prepare(guest: FakeGuest) -> None:
            guest.run_error = GuestLost("gone") if len(rig.host.guests) == 1 else None

        rig.host.prepare = prepare
        made = await forks(agent, origin, code="echo same", count=2)
        assert [fork.get("error", "") for fork in made].count("guest_lost: gone") >= 1


@pytest.mark.parametrize(
    "wrong, code",
    [
        ({"code": ["echo"] * 2, "count": 3}, "invalid_argument"),
        ({"code": ["echo", ""]}, "invalid_argument"),
        ({"code": ["echo"] * 17}, "invalid_argument"),
        ({"code": "echo", "count": 5}, "max_environments"),
        ({"code": "echo", "count": 10**9}, "invalid_argument"),
        ({"code": "echo", "count": 0}, "invalid_argument"),
        ({"code": "echo", "wait_seconds": 999}, "invalid_argument"),
    ],
)
async def test_a_refusal_makes_no_fork(wrong: dict[str, Any], code: str) -> None:
    async with serving() as rig, client(rig) as agent:
        origin = await created(agent)
        call = {"environment_id": origin, **wrong}
        assert error_of(await agent.call_tool("fork_environment", call))["code"] == code
        assert len(await names(agent)) == 1


async def test_code_that_takes_long_goes_on_as_a_job() -> None:
    async with serving() as rig, client(rig) as agent:
        origin = await created(agent)
        (fork,) = await forks(agent, origin, code="echo a\nhang", wait_seconds=0.05)
        assert fork["result"]["status"] == "running"
        job = {"environment_id": fork["environment_id"], "job_id": fork["result"]["job_id"]}
        rig.host.guests[fork["environment_id"]].release.set()
        assert data_of(await agent.call_tool("wait_job", job))["exit_code"] == 0


async def test_a_cancelled_call_leaves_no_fork() -> None:
    async with serving() as rig, client(rig) as agent:
        origin = await created(agent)
        call = {"environment_id": origin, "code": ["hang", "hang"]}
        async with anyio.create_task_group() as group:
            group.start_soon(agent.call_tool, "fork_environment", call)
            with anyio.fail_after(5):
                while len(rig.host.guests) < 3:
                    await anyio.lowlevel.checkpoint()
                for name, guest in rig.host.guests.items():
                    if name != origin:
                        await guest.started.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            while len(await names(agent)) > 1:
                await anyio.lowlevel.checkpoint()


async def test_the_kept_fork_takes_the_name_and_the_others_are_destroyed() -> None:
    async with serving() as rig, client(rig) as agent:
        made = await agent.call_tool("create_environment", {"runtime": "python", "name": "best"})
        origin = data_of(made)["environment_id"]
        one, two = await forks(agent, origin, count=2)
        keep = {"environment_id": two["environment_id"]}
        kept = await agent.call_tool("keep_fork", keep)
        assert data_of(kept)["name"] == "best"
        assert {*data_of(kept)["destroyed"]} == {origin, one["environment_id"]}
        assert "is now best" in text_of(kept)
        assert await names(agent) == ["best"]
        again = data_of(await agent.call_tool("keep_fork", keep))
        assert again == {"environment_id": two["environment_id"], "name": "best"}
        assert data_of(await agent.call_tool("execute", {"environment_id": "best", "code": "echo"}))


async def test_nothing_is_destroyed_if_the_name_cannot_be_recorded() -> None:
    setup = Setup()
    async with serving(setup) as rig, client(rig) as agent:
        made = await agent.call_tool("create_environment", {"runtime": "python", "name": "best"})
        origin = data_of(made)["environment_id"]
        one, _ = await forks(agent, origin, count=2)
        setup.store.save_error = OSError("full")
        refused = await agent.call_tool("keep_fork", {"environment_id": one["environment_id"]})
        assert refused.is_error
        setup.store.save_error = None
        assert len(await names(agent)) == 3


async def test_one_that_cannot_be_destroyed_is_named_and_a_repeat_ends_it() -> None:
    async with serving() as rig, client(rig) as agent:
        origin = await created(agent)
        one, two = await forks(agent, origin, count=2)
        stuck = rig.host.guests[two["environment_id"]]
        stuck.destroy_error = GuestLost("stuck")
        keep = {"environment_id": one["environment_id"]}
        kept = data_of(await agent.call_tool("keep_fork", keep))
        assert kept["not_destroyed"] == [two["environment_id"]]
        stuck.destroy_error = None
        assert data_of(await agent.call_tool("keep_fork", keep))["destroyed"] == [
            two["environment_id"]
        ]


async def test_only_a_fork_is_kept() -> None:
    async with serving() as rig, client(rig) as agent:
        origin = await created(agent)
        refused = error_of(await agent.call_tool("keep_fork", {"environment_id": origin}))
        assert refused["code"] == "invalid_argument"
        assert "is not a fork" in refused["message"]
