# SPDX-License-Identifier: Apache-2.0
"""Small protocols shared by services: time, ids and the record of environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from waggle.domain.environment import Environment

Clock = Callable[[], datetime]
"""Now, with a time zone. Injected, so that tests own time.

Idle times are measured with it, so it should not jump when the system clock is set: the real one
is the wall clock at the start of the server plus the monotonic time since.
"""

NewId = Callable[[], str]
"""A fresh environment id (a UUID)."""


class EnvironmentStore(Protocol):
    """Remembers environments across restarts. Every call is durable when it returns."""

    async def save(self, environment: Environment) -> None:
        """Insert or replace the record with this id."""
        ...

    async def get(self, environment_id: str) -> Environment | None:
        """The record with this id, destroyed ones included while they are remembered."""
        ...

    async def unfinished(self) -> Sequence[Environment]:
        """All records that are not destroyed: after a restart, what an earlier server left."""
        ...

    async def aclose(self) -> None:
        """Flush and close. Idempotent."""
        ...
