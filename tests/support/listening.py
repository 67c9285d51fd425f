# SPDX-License-Identifier: Apache-2.0
"""Fake listeners for exposed ports: they listen nowhere, and their local ports are made up.

Made by the fake hosts. A test connects with `visit`, as a listener does for every client.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio.lowlevel

from waggle.domain.exposure import Visit

FIRST_LOCAL = 40_000


@dataclass(slots=True)
class FakeListeners:
    """The listeners of one environment. `taken` local ports are used by others."""

    visit: Visit
    open: dict[int, int] = field(default_factory=dict[int, int])
    taken: set[int] = field(default_factory=set[int])

    async def listen(self, port: int, local_port: int = 0) -> int:
        await anyio.lowlevel.checkpoint()
        if local_port in self.taken:
            local_port = 0
        return self.open.setdefault(port, local_port or FIRST_LOCAL + len(self.open))

    async def close(self, port: int) -> None:
        await anyio.lowlevel.checkpoint()
        self.open.pop(port, None)

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.open.clear()
