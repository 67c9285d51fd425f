# SPDX-License-Identifier: Apache-2.0
"""The cost of a real server's results to an agent, in tokens of o200k_base."""

from __future__ import annotations

import pytest
from tests.support.agent_session import CALLS, costs, table
from tests.support.server import MODERN, data_of, text_of
from tests.support.tokens import compact, tokens
from tests.support.waggle_client import connected
from tests.support.waggle_process import Waggle

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]


async def test_a_line_of_python_costs_little(server: Waggle, python: str) -> None:
    async with connected(server, MODERN) as client:
        arguments = {"environment_id": python, "code": "print(6*7)"}
        result = await client.call_tool("execute", arguments)
    assert tokens(compact(data_of(result))) <= 40
    assert tokens(text_of(result)) <= 20


@pytest.mark.net
async def test_a_session_of_fifteen_calls_costs_little(server: Waggle) -> None:
    async with connected(server, MODERN) as client:
        found = await costs(client)
    assert len(found) == len(CALLS) == 15
    assert sum(cost.structured for cost in found) <= 1_000, table(found)
    assert sum(cost.text for cost in found) <= 1_000, table(found)
