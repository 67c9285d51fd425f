# SPDX-License-Identifier: Apache-2.0
"""A QEMU that writes no state; `tests/vm/test_freezing.py` has real machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Any, cast

import pytest

from waggle.domain.errors import BootFailed
from waggle.infra.qemu import frozen

pytestmark = pytest.mark.anyio


class Silent:
    """The monitor of a QEMU that takes every command and reports nothing."""

    async def execute(self, command: str, arguments: object = None) -> None:
        pass

    def send_fd_scm(self, descriptor: int) -> None:
        pass

    @contextlib.contextmanager
    def hearing(self, _event: str, _states: object) -> Generator[asyncio.Future[str]]:
        yield asyncio.get_running_loop().create_future()


async def test_a_qemu_that_never_says_that_its_state_is_written_is_not_waited_for() -> None:
    with pytest.raises(BootFailed, match=r"did not write the machine's state in 0\.1 s"):
        await frozen.send(cast("Any", Silent()), 0, memory=True, seconds=0.1)
