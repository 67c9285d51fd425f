# SPDX-License-Identifier: Apache-2.0
"""When a guest agent is asked anew what it is and what it has: after each that says it has started.

Used by `client`. A guest may say so without end: one question is under way at a time, and the next
one waits for its turn, so that what is sent stays bounded, and memory too. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from waggle.tasks import end

PACE_SECONDS: Final = 0.5
"""Between two questions. The agent that was asked may have ended by then, and another started."""

Sleep = Callable[[float], Awaitable[None]]


class Regreeting:
    """Asks once for all that was heard until then. `close` ends it; it may begin again."""

    def __init__(self, ask: Callable[[], Awaitable[None]], sleep: Sleep = asyncio.sleep) -> None:
        """`ask` raises nothing; it is cancelled when it takes long and another agent was heard."""
        self._ask = ask
        self._sleep = sleep
        self._heard = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    def hear(self) -> None:
        """Note that an agent has started, or that it has to be asked again."""
        self._heard.set()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        while self._heard.is_set():
            self._heard.clear()
            asking = asyncio.ensure_future(self._ask())
            another = asyncio.ensure_future(self._heard.wait())
            try:
                await self._sleep(PACE_SECONDS)
                await asyncio.wait({asking, another}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end(asking, another)

    async def close(self) -> None:
        """End the question that is under way. Idempotent."""
        if self._serving is not None:
            await end(self._serving)
