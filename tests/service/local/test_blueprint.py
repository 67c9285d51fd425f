# SPDX-License-Identifier: Apache-2.0
"""A machine that is not wanted any more leaves no thread at work in its directory."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from waggle.service.local.blueprint import Blueprint, LocalMachines
from waggle.service.local.frozen.templates import NoTemplates

pytestmark = pytest.mark.anyio


class SlowCopy:
    """A frozen machine whose disks take until `go` to copy."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.is_copied = False

    def copy_disks(self, _scratch: Path, _identity: Path) -> None:
        self.begun.set()
        self.is_copied = self.go.wait(10)


async def test_a_cancelled_start_ends_after_the_copy_of_its_disks(tmp_path: Path) -> None:
    unused: Any = None
    image = SimpleNamespace(disk=tmp_path / "root")
    parts: Any = SimpleNamespace(kit=tmp_path / "kit", image=image)

    async def launch(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    launcher: Any = SimpleNamespace(launch=launch)
    machines = LocalMachines(unused, launcher, unused, unused, NoTemplates())
    frozen, ends = SlowCopy(), list[bool]()

    async def start() -> None:
        try:
            await machines.start(Blueprint(parts, {}, tmp_path), cast("Any", frozen))
        finally:
            ends.append(frozen.is_copied)

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        assert await anyio.to_thread.run_sync(frozen.begun.wait, 10)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert ends == []  # its directory would be removed now
            frozen.go.set()
    assert ends == [True]
