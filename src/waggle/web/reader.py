# SPDX-License-Identifier: Apache-2.0
"""Read the message of a body: small ones at once, large ones in a thread, one after the other.

Called by `waggle.web.endpoint`. Leaves the arguments of a large call in the request's scope, where
`waggle.mcp` takes them. Knows no tools, but which ones carry files.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial

import anyio
import anyio.to_thread
from starlette.types import Scope

from waggle import jsonrpc
from waggle.allocator import COLLECTOR
from waggle.jsonrpc import NoMessage, read
from waggle.large import ARGUMENTS, LARGE, Sizes, read_large
from waggle.web.bodies import Body, BodyLimits

_PAUSE_SECONDS = 0.001


class MessageReader:
    """What reads the messages of one server. `carriers` are the tools whose calls may be large."""

    def __init__(self, carriers: Collection[str], limits: BodyLimits) -> None:
        self._sizes = Sizes(limits.ordinary, carriers)
        self._turn = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)

    async def read(self, body: Body, scope: Scope) -> tuple[jsonrpc.Message | NoMessage, bytes]:
        """The message, and its text for the SDK. `body` is empty afterwards if it was large.

        There is no text of a large one that is none.
        """
        size = len(body.data)
        if size <= LARGE:
            text = bytes(body.data)
            return read(text, "body"), text
        async with self._turn:
            with COLLECTOR.stopped():
                work = partial(
                    read_large, body.data, body.structure.long, "body", self._sizes, _pause
                )
                found = await anyio.to_thread.run_sync(work, limiter=self._thread)
        body.data.clear()
        if isinstance(found, NoMessage):
            return found, b""
        if found.arguments is not None:
            scope[ARGUMENTS] = found.arguments
        return found.message, found.text


def _pause() -> None:
    """Let go of Python's lock for so long that the loop's thread, which waits for it, gets it."""
    time.sleep(_PAUSE_SECONDS)
