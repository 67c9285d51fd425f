# SPDX-License-Identifier: Apache-2.0
"""One server for all tests that do not harm it, with one environment of each runtime.

A machine takes seconds to start under emulation. A test that breaks things starts its own server.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Generator

import pytest
from tests.e2e.aging import WORKING_SECONDS, Aging, looked_at
from tests.support.waggle_client import by_curl, call, connected, create, curl
from tests.support.waggle_process import Waggle, have_templates, running, small

SHARED = {"default_exec_timeout": "2m", "boot_timeout": "3m"}
"""Longer limits than the defaults: these machines share two busy cores."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Waggle]:
    have_templates("python", "node", "shell")
    with running(tmp_path_factory.mktemp("shared"), SHARED) as server:
        yield server


async def _environment(server: Waggle, runtime: str) -> AsyncGenerator[str]:
    async with connected(server) as client:
        environment = await create(client, runtime, name=f"shared-{runtime}", timeout_minutes=60)
    yield environment
    async with connected(server) as client:
        await call(client, "destroy_environment", environment_id=environment)


@pytest.fixture(scope="session")
async def python(server: Waggle, anyio_backend: str) -> AsyncGenerator[str]:
    async for environment in _environment(server, "python"):
        yield environment


@pytest.fixture(scope="session")
async def node(server: Waggle, anyio_backend: str) -> AsyncGenerator[str]:
    async for environment in _environment(server, "node"):
        yield environment


@pytest.fixture(scope="session")
async def shell(server: Waggle, anyio_backend: str) -> AsyncGenerator[str]:
    async for environment in _environment(server, "shell"):
        yield environment


@pytest.fixture
def environment(request: pytest.FixtureRequest, runtime: str) -> str:
    """The shared environment of the runtime that the test is parametrised with."""
    return str(request.getfixturevalue(runtime))


BRIEF = {"reaper_interval": "1s", "paused_keep": "5s"}


@pytest.fixture(scope="session", autouse=True)
def _aging_begins(request: pytest.FixtureRequest) -> None:
    """Start `aging` with the first test, so that a minute has passed when test_reaper.py looks."""
    if looked_at(request.session.items):
        request.getfixturevalue("aging")


@pytest.fixture(scope="session")
def aging(tmp_path_factory: pytest.TempPathFactory) -> Generator[Aging]:
    directory = tmp_path_factory.mktemp("aging")
    with running(directory, {**small(directory), **BRIEF}) as server:
        idle, busy = (
            by_curl(server, "create_environment", runtime="shell", timeout_minutes=1)
            for _ in range(2)
        )
        code = f"busybox sleep {WORKING_SECONDS}; echo finished"
        with subprocess.Popen(
            curl(
                server,
                "execute",
                environment_id=busy["environment_id"],
                code=code,
                timeout_seconds=2 * WORKING_SECONDS,
                wait_seconds=2 * WORKING_SECONDS,
            ),
            stdout=subprocess.PIPE,
            text=True,
        ) as work:
            yield Aging(server, idle["environment_id"], busy["environment_id"], work)
            work.terminate()
