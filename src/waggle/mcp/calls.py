# SPDX-License-Identifier: Apache-2.0
"""The calls and reads in progress, so that a stopping server refuses new ones and ends the last.

Held by `waggle.mcp.server`; told to stop by whoever runs a transport. Knows no transport.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import anyio

from waggle.mcp.errors import Failure

REFUSED = Failure(
    "shutting_down",
    "The server is shutting down and takes no new calls.",
    "Its environments end with it: call again when it is back, and create a new one.",
    retryable=True,
)
CUT = Failure(
    "shutting_down",
    "The server is shutting down and had to stop this call.",
    "Its environments end with it: call again when it is back, and create a new one.",
    retryable=True,
)


class Calls:
    """Which calls run, and whether more may begin."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._stopping = False
        self._idle = anyio.Event()

    @property
    def stopping(self) -> bool:
        """Whether new calls are refused."""
        return self._stopping

    def __len__(self) -> int:
        return len(self._scopes)

    @contextlib.contextmanager
    def one(self) -> Generator[anyio.CancelScope]:
        """Count a call for the length of the block; `cut` cancels the scope."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._idle.set()

    def stop(self) -> None:
        """Refuse new calls from now on. Idempotent."""
        self._stopping = True

    def cut(self) -> int:
        """End the calls in progress, each with an error result; returns how many there were."""
        for scope in self._scopes:
            scope.cancel()
        return len(self._scopes)

    async def finished(self) -> None:
        """Wait until no call is in progress."""
        while self._scopes:
            self._idle = anyio.Event()
            await self._idle.wait()
