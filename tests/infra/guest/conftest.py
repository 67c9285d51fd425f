# SPDX-License-Identifier: Apache-2.0
"""Fixtures for a forwarder and the guest behind it, with a check for leaks; a real agent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.infra.guest.forwarding import Guest, Rig
from tests.support.agent_program import built_agent
from tests.support.leaks import Leaks


@pytest.fixture
async def nothing_left() -> AsyncGenerator[None]:
    watch = Leaks()
    yield
    await watch.settle()


@pytest.fixture
async def guest(nothing_left: None, tmp_path: Path) -> AsyncGenerator[Guest]:
    with contextlib.closing(Guest(tmp_path)) as made:
        yield made


@pytest.fixture
async def rig(nothing_left: None, tmp_path: Path) -> AsyncGenerator[Rig]:
    """A rig whose guest is this process."""
    made = Rig(tmp_path, os.getpid())
    yield made
    await made.close()


@pytest.fixture(scope="session")
def agent_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's agent, compiled for this host."""
    return built_agent(tmp_path_factory)
