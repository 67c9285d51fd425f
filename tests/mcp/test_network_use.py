# SPDX-License-Identifier: Apache-2.0
"""What agents see of refused connections: in results, jobs, states and resources."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from mcp import Client
from mcp_types import TextResourceContents
from tests.support.fakes import FakeGuest, FakeHost
from tests.support.server import (
    ERAS,
    MODERN,
    NOW,
    Rig,
    Setup,
    client,
    created,
    data_of,
    error_of,
    serving,
    text_of,
)

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.diagnosis.reach import refusal
from waggle.domain.network import parse_network
from waggle.domain.network.decisions import ALLOWED, Decision
from waggle.domain.network.use import NetworkUse, Remembered
from waggle.domain.programs import ExecutionResult, Output
from waggle.domain.toolset import Toolset
from waggle.mcp.uris import network_uri

pytestmark = pytest.mark.anyio
NETWORK = parse_network("example.net, deny ads.example.net")
NO_RULE = Decision("example.org", 443, "no-rule", "no rule allows it")
REACHED = Decision("example.net", 443, ALLOWED, "", "example.net", "8.8.8.8")
USE = NetworkUse(
    NETWORK,
    connections=3,
    refused=7,
    sent=1_234,
    received=56_789,
    allowed=(Remembered(REACHED, 3, 5.0, 1_200, 56_000),),
    denied=(Remembered(NO_RULE, 7, 2.0),),
)


def hidden() -> Diagnosis | None:
    return refusal([NO_RULE], NETWORK, "box")


async def ran(agent: Client, rig: Rig, code: str, **more: object) -> Any:
    environment = await created(agent)
    guest = rig.host.only
    guest.diagnosis, guest.network = hidden(), USE
    return await agent.call_tool("execute", {"environment_id": environment, "code": code, **more})


@pytest.mark.parametrize("era", ERAS)
async def test_a_run_that_hid_a_refusal_is_no_error_and_says_it(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        result = await ran(agent, rig, "echo offline")
        assert not result.is_error
        assert data_of(result)["exit_code"] == 0
        assert data_of(result)["diagnosis"]["code"] == "network_refused"
        (line,) = [line for line in text_of(result).splitlines() if "network_refused" in line]
        assert line.startswith(
            "network_refused: While it ran, example.org:443 was refused: no rule"
        )
        assert "waggle env network box --allow example.org" in line


async def test_a_client_of_the_core_is_given_the_command_for_a_person() -> None:
    setup = Setup(toolsets={Toolset.CORE})
    async with serving(setup) as rig, client(rig, MODERN) as agent:
        result = await ran(agent, rig, "echo offline")
        assert "A person opens it with `waggle env network box --allow example.org`" in text_of(
            result
        )
        assert "set_network" not in text_of(result)


async def test_a_running_job_shows_what_it_was_refused_so_far() -> None:
    now = NOW
    setup = Setup(clock=lambda: now)
    async with serving(setup) as rig, client(rig, MODERN) as agent:
        result = await ran(agent, rig, "echo trying\nhang", background=True)
        job = {"environment_id": await listed(agent), "job_id": data_of(result)["job_id"]}
        read = await agent.call_tool("read_job", {**job, "wait_seconds": 0})
        assert "diagnosis" not in data_of(read), "that was before it began"
        now += timedelta(seconds=10)
        read = await agent.call_tool("read_job", {**job, "wait_seconds": 0})
        assert data_of(read)["status"] == "running"
        assert "example.org:443 was refused" in data_of(read)["diagnosis"]["cause"]


async def failing(_command: object, _into: object) -> ExecutionResult:
    return ExecutionResult(Output(b""), Output(b""), 1, None, False, 0.1, "run")


async def listed(agent: Client) -> str:
    (one,) = data_of(await agent.call_tool("list_environments", {}))["environments"]
    return str(one["environment_id"])


async def test_a_failed_installation_says_what_was_refused() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        environment = await created(agent)
        guest = rig.host.only
        guest.diagnosis = hidden()
        guest.programs["install"] = failing
        result = await agent.call_tool(
            "install_packages", {"environment_id": environment, "packages": ["requests"]}
        )
        assert error_of(result)["code"] == "install_failed"
        assert "@packages" in error_of(result)["hint"]
        assert "example.org:443 was refused" in text_of(result)


async def test_get_environment_lists_the_last_refusals_and_totals() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        environment = await created(agent)
        look = {"environment_id": environment}
        assert "network_use" not in data_of(await agent.call_tool("get_environment", look))
        rig.host.only.network = USE
        result = await agent.call_tool("get_environment", look)
        assert data_of(result)["network_use"] == {
            "connections": 3,
            "sent_bytes": 1_234,
            "received_bytes": 56_789,
            "refused": 7,
            "last_refused": [
                {
                    "to": "example.org:443",
                    "why": "no rule allows it",
                    "count": 7,
                    "last_at": "2026-03-04T05:06:05Z",
                }
            ],
        }
        *_, network, refused, _guest = text_of(result).splitlines()
        assert [network, refused] == [
            "network used: 3 connections, 1234 bytes sent, 57 kB received, 7 refused",
            "refused example.org:443 (7 times, last at 2026-03-04T05:06:05Z): no rule allows it",
        ]


async def test_get_environment_shows_the_newest_ten() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        environment = await created(agent)
        many = [Decision(f"{n}.test", 443, "no-rule", "no rule allows it") for n in range(64)]
        denied = tuple(Remembered(one, 1, 64.0 - n) for n, one in enumerate(many))
        rig.host.only.network = NetworkUse(NETWORK, refused=64, denied=denied)
        result = await agent.call_tool("get_environment", {"environment_id": environment})
        shown = [item["to"] for item in data_of(result)["network_use"]["last_refused"]]
        assert shown == [f"{number}.test:443" for number in range(63, 53, -1)]


async def test_the_network_resource_has_all_decisions_in_order() -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        environment = await created(agent)
        uri = network_uri(environment)
        assert await content(agent, uri) == {
            "network": "public",
            "connections": 0,
            "refused": 0,
            "sent_bytes": 0,
            "received_bytes": 0,
            "decisions": [],
        }
        rig.host.only.network = USE
        read = await content(agent, uri)
        assert read["network"] == str(NETWORK)
        assert [(one["outcome"], one["host"], one["count"]) for one in read["decisions"]] == [
            ("allowed", "example.net", 3),
            ("no-rule", "example.org", 7),
        ]
        assert read["decisions"][0]["address"] == "8.8.8.8"
        assert read["decisions"][0]["received_bytes"] == 56_000


async def content(agent: Client, uri: str) -> dict[str, Any]:
    (read,) = (await agent.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(read, TextResourceContents)
    found: dict[str, Any] = json.loads(read.text)
    return found


async def test_run_code_names_itself_for_its_environment_is_gone() -> None:
    def prepare(guest: FakeGuest) -> None:
        guest.diagnosis = hidden()

    async with serving(Setup(host=FakeHost(prepare=prepare))) as rig, client(rig) as agent:
        arguments = {"code": "echo offline", "network": "example.net, deny ads.example.net"}
        result = await agent.call_tool("run_code", arguments)
        network = '["example.net", "deny ads.example.net", "example.org"]'
        step = data_of(result)["diagnosis"]["next_step"]
        assert step.endswith(f"run_code with network {network} opens it.")
        for shown in (text_of(result), step):
            assert "set_network" not in shown
            assert "waggle env network" not in shown


@pytest.mark.parametrize("is_late", [False, True])
async def test_create_says_that_package_managers_did_not_answer(*, is_late: bool) -> None:
    async with serving() as rig, client(rig) as agent:

        def prepare(guest: FakeGuest) -> None:
            guest.configured, guest.is_late = ("pip.example.org:443",), is_late

        rig.host.prepare = prepare
        made = await agent.call_tool("create_environment", {"network": "@packages"})
        notice = str(data_of(made).get("notice", ""))
        assert ('set_network with allow ["@packages"] asks again' in notice) is is_late
        assert notice in text_of(made)
