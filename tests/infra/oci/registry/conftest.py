# SPDX-License-Identifier: Apache-2.0
"""A plain registry that all tests here share, with one image in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from tests.infra.oci.registry.world import LAYERS, World
from tests.support.fault_proxy import FaultProxy
from tests.support.images import write_layout
from tests.support.registry import Registry, run_registry, skopeo

from waggle.infra.oci.store.layout import Layout


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def digest(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("made")
    digest = write_layout(path, LAYERS, name="v1")
    target = f"docker://{registry.name}/app:v1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{path}:v1", target)
    return digest


@pytest.fixture
async def proxy(registry: Registry, digest: str) -> AsyncGenerator[FaultProxy]:
    assert digest
    async with FaultProxy(registry.port) as proxy:
        yield proxy


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Layout(tmp_path / "store"))
