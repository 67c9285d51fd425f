# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the agent, compiled once for this host, and one that runs and is allowed everything."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.agent_program import Agent, built_agent, running_agent


@pytest.fixture(scope="session")
def agent_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_agent(tmp_path_factory)


@pytest.fixture(scope="session")
def agent_program_as_shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one without checks, whose memory is that of the real one."""
    return built_agent(tmp_path_factory, "-Os", "-s")


@pytest.fixture
def agent(agent_program: Path, tmp_path: Path) -> Generator[Agent]:
    with running_agent(agent_program, tmp_path) as running:
        yield running
