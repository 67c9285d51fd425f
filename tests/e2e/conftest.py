# SPDX-License-Identifier: Apache-2.0
"""One server for all tests that do it no harm, and one environment of each runtime in it.

Booting takes seconds under emulation. A test that breaks things starts its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest
from tests.support.waggle_process import Waggle, call, connected, create, running

SHARED = {"default_exec_timeout": "2m", "boot_timeout": "3m"}
"""More patience than the defaults: these machines share two busy cores."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Waggle]:
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
