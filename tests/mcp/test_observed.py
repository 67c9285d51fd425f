# SPDX-License-Identifier: Apache-2.0
"""Quotas, rates and observed calls, through real clients of a real server."""

from __future__ import annotations

import anyio
import pytest
from mcp import Client, MCPError
from tests.mcp.subscribing import subscribe, unsubscribe
from tests.support.owners import ANN, BOB, guarded
from tests.support.server import (
    ERAS,
    LEGACY,
    MODERN,
    Setup,
    client,
    created,
    data_of,
    error_of,
    mcp_server,
    serving,
)
from tests.support.waiting import until

from waggle.domain.observer import Call, Observer
from waggle.service.sharing import RateLimiter

pytestmark = pytest.mark.anyio


class Kept(Observer):
    """An observer that keeps every report."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.events: list[str] = []

    def call_ended(self, call: Call) -> None:
        self.calls.append(call)

    def environment_created(self, seconds: float) -> None:
        assert seconds >= 0
        self.events.append("created")

    def create_failed(self, code: str) -> None:
        self.events.append(code)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(call.tool, call.outcome) for call in self.calls]


async def test_a_quota_is_per_owner_and_exact_under_concurrency() -> None:
    setup = guarded()
    setup.per_owner, setup.max_environments = 2, 3
    async with (
        serving(setup) as rig,
        client(rig, token=ANN) as ann,
        client(rig, token=BOB) as bob,
    ):
        codes: list[str] = []

        async def create() -> None:
            result = await ann.call_tool("create_environment", {"runtime": "shell"})
            codes.append(error_of(result)["code"] if result.is_error else "ok")

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(create)
        assert sorted(codes) == ["ok"] * 2 + ["quota_exceeded"] * 10
        refused = error_of(await ann.call_tool("create_environment", {"runtime": "shell"}))
        assert refused["retryable"]
        assert "Destroy one of your" in refused["hint"]
        await created(bob)  # has a separate quota
        listed = data_of(await ann.call_tool("list_environments", {}))
        first = listed["environments"][0]["environment_id"]
        await ann.call_tool("destroy_environment", {"environment_id": first})
        await created(ann)


@pytest.mark.parametrize("era", ERAS)
async def test_calls_over_the_rate_are_refused_with_a_waiting_time(era: str) -> None:
    now = [0.0]
    setup = guarded()
    setup.rates = RateLimiter(2, lambda: now[0])
    async with (
        serving(setup) as rig,
        client(rig, era, token=ANN) as ann,
        client(rig, era, token=BOB) as bob,
    ):
        for _ in range(2):
            data_of(await ann.call_tool("list_environments", {}))
        refused = error_of(await ann.call_tool("list_environments", {}))
        assert (refused["code"], refused["retryable"]) == ("rate_limited", True)
        assert refused["retry_after_seconds"] == 30
        assert "30 s" in refused["hint"]
        data_of(await bob.call_tool("list_environments", {}))
        await ann.list_tools()  # only calls count for the rate
        now[0] = 30
        data_of(await ann.call_tool("list_environments", {}))


async def test_calls_of_unknown_tools_count_for_the_rate() -> None:
    setup = Setup(rates=RateLimiter(1, lambda: 0.0))
    async with serving(setup) as rig, client(rig) as one:
        assert error_of(await one.call_tool("nope", {}))["code"] == "unknown_tool"
        assert error_of(await one.call_tool("nope", {}))["code"] == "rate_limited"


@pytest.mark.parametrize("era", ERAS)
async def test_calls_are_reported_with_owner_outcome_and_environment(era: str) -> None:
    kept = Kept()
    setup = guarded()
    setup.observer = kept
    async with serving(setup) as rig, client(rig, era, token=ANN) as ann:
        environment = await created(ann)
        await ann.call_tool("execute", {"environment_id": environment[:12], "code": "1\n"})
        await ann.call_tool("execute", {"environment_id": "../etc/passwd", "code": "1"})
        await ann.call_tool("execute", {"environment_id": 5})
        await ann.call_tool("no\nsuch", {"environment_id": environment})
    assert kept.outcomes == [
        ("create_environment", "ok"),
        ("execute", "ok"),
        ("execute", "invalid_argument"),
        ("execute", "invalid_argument"),
        ("unknown_tool", "unknown_tool"),
    ]
    assert [call.environment_id for call in kept.calls] == [
        environment,
        environment,
        None,
        None,
        environment,
    ]
    assert kept.calls[1].program == "1\n"
    assert {call.owner for call in kept.calls} == {"ann"}
    assert {call.address for call in kept.calls} == {"127.0.0.1"}
    assert {call.session for call in kept.calls} == {"session" if era == LEGACY else "none"}
    assert kept.events == ["created"]


@pytest.mark.parametrize("era", ERAS)
async def test_requests_for_resources_are_reported_like_calls(era: str) -> None:
    kept = Kept()
    setup = guarded()
    setup.observer = kept
    async with serving(setup) as rig, client(rig, era, token=ANN) as ann:
        environment = await created(ann)
        kept.calls.clear()
        uri = f"waggle://environments/{environment}"
        await ann.list_resources()
        await ann.read_resource(uri)
        for wrong in (f"{uri}/executions/9/stdout", f"{uri}/files/a?offset=x", "file:///etc"):
            with pytest.raises(MCPError):
                await ann.read_resource(wrong)
        with pytest.raises(MCPError):
            await ann.list_resources(cursor="x")
        read = "resources/read"
        assert [(call.method, call.outcome, call.environment_id) for call in kept.calls] == [
            ("resources/list", "ok", None),
            (read, "ok", environment),
            (read, "job_not_found", environment),
            (read, "invalid_argument", environment),
            (read, "not_found", None),
            ("resources/list", "invalid_argument", None),
        ]
        assert {(call.owner, call.tool, call.address) for call in kept.calls} == {
            ("ann", "", "127.0.0.1")
        }


@pytest.mark.parametrize("era", ERAS)
async def test_requests_for_prompts_are_reported_and_count_for_the_rate(era: str) -> None:
    kept = Kept()
    setup = Setup(observer=kept, rates=RateLimiter(3, lambda: 0.0))
    async with serving(setup) as rig, client(rig, era) as one:
        await one.list_prompts()  # only requests for one prompt count
        await one.get_prompt("run-code", {"task": "x"})
        for name, runtime in (("nope", ""), ("run-code", "ruby"), ("run-code", "python")):
            with pytest.raises(MCPError) as refused:
                await one.get_prompt(name, {"task": "x", "runtime": runtime})
        assert refused.value.error.data["waggle/error"]["retry_after_seconds"] == 20
    assert [(call.method, call.tool, call.outcome) for call in kept.calls] == [
        ("prompts/get", "", "ok"),
        ("prompts/get", "", "invalid_argument"),
        ("prompts/get", "", "invalid_runtime"),
        ("prompts/get", "", "rate_limited"),
    ]


async def test_subscriptions_are_reported_and_a_stream_when_it_is_closed() -> None:
    kept = Kept()
    async with serving(Setup(observer=kept)) as rig:
        async with client(rig, LEGACY) as one:
            environment = await created(one)
            uri = f"waggle://environments/{environment}"
            await subscribe(one, uri)
            with pytest.raises(MCPError):
                await subscribe(one, f"{uri}/executions")
            await unsubscribe(one, uri)
        async with client(rig, MODERN) as one, one.listen(resource_subscriptions=[uri]):
            pass
        await until(lambda: len(kept.calls) == 5)
    assert [(call.method, call.outcome, call.environment_id) for call in kept.calls[1:]] == [
        ("resources/subscribe", "ok", environment),
        ("resources/subscribe", "not_found", None),
        ("resources/unsubscribe", "ok", environment),
        ("subscriptions/listen", "cancelled", None),
    ]


@pytest.mark.parametrize("era", ERAS)
async def test_requests_for_resources_count_for_the_rate(era: str) -> None:
    setup = Setup(rates=RateLimiter(3, lambda: 0.0))
    async with serving(setup) as rig, client(rig, era) as one:
        uri = f"waggle://environments/{await created(one)}"
        await one.list_resources()
        await one.read_resource(uri)
        for ask in (one.list_resources, lambda: one.read_resource(uri)):
            with pytest.raises(MCPError) as refused:
                await ask()
            assert refused.value.error.data["waggle/error"]["code"] == "rate_limited"


async def test_a_cancelled_call_is_reported() -> None:
    kept = Kept()
    setup = Setup(observer=kept)
    setup.host.hold = anyio.Event()
    async with serving(setup) as rig:
        async with client(rig) as one, anyio.create_task_group() as group:
            group.start_soon(one.call_tool, "create_environment", {"runtime": "shell"})
            await setup.host.creating.wait()
            group.cancel_scope.cancel()
        await until(lambda: bool(kept.calls))
    assert kept.outcomes == [("create_environment", "cancelled")]
    assert kept.events == ["cancelled"]


async def test_a_client_in_the_same_process_is_the_local_owner() -> None:
    kept = Kept()
    async with mcp_server(Setup(observer=kept)) as server, Client(server) as one:
        await created(one)
    assert [(call.owner, call.session, call.address) for call in kept.calls] == [
        ("local", "stdio", None)
    ]
