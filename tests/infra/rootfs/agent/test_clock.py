# SPDX-License-Identifier: Apache-2.0
"""set_time where it is refused: this machine's clock is left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.support.agent_places import after
from tests.support.agent_program import Agent, running_agent

from waggle.infra.guest.protocol import ErrorCode

FAR = 4_000_000_000 * 10**9
"""In the year 2096."""


def test_the_system_may_refuse(agent_program: Path, tmp_path: Path) -> None:
    prefix = after("", "--user", "--map-root-user")
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        error = agent.error("set_time", time=FAR)
    assert error["code"] == ErrorCode.FAILED
    assert error["data"] == {"errno": "EPERM"}
    assert time.time_ns() < FAR


@pytest.mark.parametrize("wanted", [-1, 1.5, "0", None])
def test_a_wrong_time_is_refused(agent: Agent, wanted: object) -> None:
    code = agent.answer(agent.request("set_time", time=wanted))["error"]["code"]
    assert code == ErrorCode.INVALID_PARAMS
