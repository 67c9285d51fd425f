# SPDX-License-Identifier: Apache-2.0
"""A pull whose process is killed stores nothing, and its leftovers are collected."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from tests.infra.oci.registry.world import PLATFORM, World
from tests.support.fault_proxy import FaultProxy, in_turn, pass_on, stall
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

PULL = """
import asyncio, sys
from pathlib import Path
from waggle.domain.reference import parse_reference
from waggle.infra.oci.store.layout import Layout
from waggle.infra.oci.registry.options import RegistryOptions
from waggle.infra.oci.registry import Puller
registry, store, platform = sys.argv[1:]
options = RegistryOptions(insecure=frozenset({registry}), parallel=1)
puller = Puller(Layout(Path(store)), options, platform=platform)
asyncio.run(puller.pull(parse_reference(f"{registry}/app:v1"), lambda _: None))
"""


async def test_a_killed_pull_stores_nothing_and_is_cleaned_up(
    proxy: FaultProxy, world: World, tmp_path: Path
) -> None:
    # The configuration and one layer arrive in full; the second layer stops half-way.
    proxy.break_("GET .*/blobs/", in_turn([pass_on, pass_on, stall(70_000)]))
    script = tmp_path / "pull.py"
    script.write_text(PULL)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), proxy.name, str(world.layout.path), PLATFORM
    )
    try:
        await until(lambda: len(proxy.seen("GET .*/blobs/")) == 3)
    finally:
        process.kill()
        await process.wait()
    store = world.layout.path
    assert list(store.glob(".tmp-*"))
    assert (world.names(), list((store / "blobs" / "sha256").iterdir())) == ([], [])
    with world.layout.locked():
        world.layout.collect()
    assert world.is_clean()
