# SPDX-License-Identifier: Apache-2.0
"""Progress in both eras: sent to clients that ask for it, and not to others."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from tests.support.server import (
    ERAS,
    INITIALIZE,
    Setup,
    client,
    created,
    data_of,
    raw,
    request,
    serving,
)

from waggle.domain.host import Progress
from waggle.domain.programs import Command, ExecutionResult, Streams
from waggle.mcp import context

pytestmark = pytest.mark.anyio

Report = tuple[float, float | None, str | None]


class Watcher:
    """A progress callback that keeps reports and sets `first` with the first one."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.first = anyio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.reports.append((progress, total, message))
        self.first.set()


@pytest.mark.parametrize("era", ERAS)
async def test_create_reports_its_steps(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        watcher = Watcher()
        result = await agent.call_tool(
            "create_environment", {"runtime": "python"}, progress_callback=watcher
        )
        assert data_of(result)["status"] == "running"
        assert watcher.reports == [
            (0.1, 1.0, "preparing"),
            (0.5, 1.0, "booting"),
            (1.0, 1.0, "ready"),
        ]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "tool, words, arguments",
    [
        ("execute", "running", {"code": "hang\necho done"}),
        ("install_packages", "installing", {"packages": "a"}),
    ],
)
async def test_long_work_reports_progress_until_it_ends(
    era: str, tool: str, words: str, arguments: dict[str, str]
) -> None:
    async with serving(Setup(heartbeat=0.02)) as rig, client(rig, era) as agent:
        environment = await created(agent)
        guest = rig.host.only

        async def slow(command: Command, into: Streams) -> ExecutionResult:
            await guest.release.wait()
            return await guest.interpret(command, into)

        guest.programs["install"] = slow
        watcher = Watcher()

        async def call() -> None:
            everything = {"environment_id": environment, **arguments}
            result = await agent.call_tool(tool, everything, progress_callback=watcher)
            assert data_of(result)["exit_code"] == 0

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            with anyio.fail_after(5):
                await watcher.first.wait()
            guest.release.set()
        assert watcher.reports[0] == (0.02, None, f"{words}, 0.02 s")
        shares = [progress for progress, _, _ in watcher.reports]
        assert shares == sorted(set(shares))


async def test_a_bare_call_without_a_token_gets_one_event() -> None:
    async with serving(Setup(heartbeat=0.001)) as rig, raw(rig) as http:
        call = request(
            "tools/call", {"name": "create_environment", "arguments": {"runtime": "python"}}
        )
        answer = await http.post("/mcp", json=call)
        assert answer.text.count("data: ") == 1


async def test_a_bare_call_with_a_token_gets_progress_in_its_stream() -> None:
    async with serving() as rig, raw(rig) as http:
        call = request(
            "tools/call",
            {
                "name": "create_environment",
                "arguments": {"runtime": "python"},
                "_meta": {"progressToken": "t"},
            },
        )
        answer = await http.post("/mcp", json=call)
        assert answer.text.count('"method":"notifications/progress"') == 3
        assert answer.text.count('"result":') == 1


async def test_a_client_that_stops_listening_does_not_fail_its_create() -> None:
    setup = Setup()
    setup.host.hold = hold = anyio.Event()
    async with serving(setup) as rig, raw(rig) as http:
        opened = await http.post("/mcp", json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        arguments = {"name": "create_environment", "arguments": {"runtime": "python"}}
        call = request("tools/call", {**arguments, "_meta": {"progressToken": 1}}, number=2)
        async with http.stream("POST", "/mcp", json=call, headers=session) as answer:
            async for line in answer.aiter_lines():
                if "preparing" in line:
                    break
        hold.set()
        with anyio.fail_after(5):
            while [e.state for e in rig.services.environments.all()] != ["running"]:
                await anyio.lowlevel.checkpoint()


class Stuck:
    """A client that does not read its stream: it takes one report, and no other."""

    def __init__(self) -> None:
        self.sent: list[str | None] = []

    async def report_progress(
        self, _progress: float, _total: float | None = None, message: str | None = None, /
    ) -> None:
        self.sent.append(message)
        if len(self.sent) > 1:
            await anyio.sleep_forever()


def _of_a_service(client: Stuck) -> Progress:
    return context.reporter(client)


def _of_a_call_with_steps(client: Stuck) -> Progress:
    return context.Phases(client, heartbeat=9).creating


@pytest.mark.parametrize("made", [_of_a_service, _of_a_call_with_steps])
async def test_a_client_that_does_not_read_delays_a_service_once_and_not_for_long(
    made: Callable[[Stuck], Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the service must not be cancelled, as with a machine that is frozen."""
    monkeypatch.setattr(context, "SLOWEST_REPORT", 0.01)
    stuck = Stuck()
    report = made(stuck)
    with anyio.fail_after(5, shield=True):
        for message in "abcd":
            await report(0.5, message)
    assert stuck.sent == ["a", "b"]
