# SPDX-License-Identifier: Apache-2.0
"""Results of hostile output do not block the event loop, however they are asked for.

Made on the loop, each of these blocks it for 0.4 to 0.5 s; made in threads, for 0.05 to 0.1 s.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp import Client
from tests.support.displays import framed
from tests.support.server import Rig, client, created, serving
from tests.support.strain import STALL, strained

from waggle.domain.programs import Command, ExecutionResult
from waggle.mcp.uris import displays_uri

pytestmark = pytest.mark.anyio
_TEXT = b'{"data":{"text/plain":"%b"}}'
_CHART = b'{"data":{"text/html":"a"},"chart":{"a":"%b"}}'
_NUMBERS = b'{"data":{"text/plain":"a"},"chart":{"a":[%b0]}}'
HOSTILE = {
    "escapes": lambda: framed(_TEXT % (b"\\u0041" * 1_300_000)) * 2,
    "charts": lambda: framed(_CHART % (b"\\u0001" * 260_000)) * 10,
    "numbers": lambda: framed(_NUMBERS % (b"1e-300," * 190_000)),
}


def prints(rig: Rig, displays: bytes, text: bytes) -> None:
    """Give the guests a program that displays and prints this."""

    async def program(_command: Command, into: Any) -> ExecutionResult:
        into.stdout.feed(text)
        into.stderr.feed(text)
        into.display.feed(displays)
        shown = into.stdout.output(), into.stderr.output()
        return ExecutionResult(*shown, exit_code=0, signal=None, timed_out=False, duration=0.1)

    for guest in rig.host.guests.values():
        guest.programs["hostile"] = program


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_displays_and_text_do_not_block_the_loop(hostile: str) -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        prints(rig, HOSTILE[hostile](), b"\b\ba" * 70_000)
        of: dict[str, Any] = {"environment_id": environment}
        started = {**of, "command": ["hostile"], "background": True}
        assert not (await agent.call_tool("run_command", started)).is_error
        await agent.call_tool("read_job", {**of, "job_id": 1, "wait_seconds": 5})
        async with strained() as found, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(_look, agent, environment)
        assert found.stall < STALL


async def _look(agent: Client, environment: str) -> None:
    shown = await agent.call_tool(
        "read_job", {"environment_id": environment, "job_id": 1, "wait_seconds": 1}
    )
    assert not shown.is_error
    for part in ("", "/1"):
        await agent.read_resource(displays_uri(environment, 1) + part)
