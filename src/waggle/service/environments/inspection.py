# SPDX-License-Identifier: Apache-2.0
"""What can be told of one environment without asking its guest. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from waggle.domain.environment import Environment
from waggle.domain.network import ExposedPort, Usage


@dataclass(frozen=True, slots=True)
class Inspection:
    """One environment at `now`, with what its machine takes, if there is one."""

    environment: Environment
    now: datetime
    usage: Usage | None
    ports: tuple[ExposedPort, ...]

    @property
    def is_busy(self) -> bool:
        """Whether a call or a job is in progress: its idle time does not run then."""
        return self.environment.active_calls > 0

    @property
    def idle_left(self) -> timedelta:
        """How much longer it may stay unused, never below zero."""
        if self.is_busy:
            return self.environment.idle_timeout
        return max(self.environment.expires_at() - self.now, timedelta(0))
