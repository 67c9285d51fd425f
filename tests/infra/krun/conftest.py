# SPDX-License-Identifier: Apache-2.0
"""The specification of a machine that never starts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.infra.krun.parts import spec_in
from tests.support.leaks import Leaks

from waggle.domain.machine import MachineSpec
from waggle.infra.guest.forwarder import claim


@pytest.fixture
async def spec(tmp_path: Path) -> AsyncGenerator[MachineSpec]:
    """A specification whose boot must leave no process, descriptor, port or directory."""
    watch = Leaks()
    made = spec_in(tmp_path)
    yield made
    await watch.settle()
    assert not made.console_log.with_suffix(".run").exists()
    claim(made.ssh_port).close()
