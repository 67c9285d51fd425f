# SPDX-License-Identifier: Apache-2.0
"""Which environments are live, and whether there is room for another.

Used by `EnvironmentService` only. No method awaits: between the check and the entry nothing else
runs, and that is what makes the cap exact.
"""

from __future__ import annotations

from waggle.domain.environment import Environment
from waggle.domain.errors import MaxEnvironments, QuotaExceeded
from waggle.service.live import LiveEnvironment


class Registry:
    """The live environments by id, in order of creation."""

    def __init__(self, capacity: int, per_owner: int = 0) -> None:
        """`per_owner` is how many slots one owner may hold; 0 means any number."""
        self._capacity = capacity
        self._per_owner = per_owner
        self._live: dict[str, LiveEnvironment] = {}
        self._closed = False

    def refusal(self, slots: int = 1) -> MaxEnvironments | None:
        """Why so many more cannot be admitted now, or None."""
        if self._closed:
            return MaxEnvironments(
                "The server is shutting down.", hint="Try again when it is back."
            )
        held = sum(live.environment.holds_capacity for live in self._live.values())
        if held >= self._capacity:
            return MaxEnvironments(f"All {self._capacity} environments are in use.")
        if held + slots > self._capacity:
            left = self._capacity - held
            return MaxEnvironments(f"{slots} more do not fit: {left} of {self._capacity} are free.")
        return None

    def admit(self, *lives: LiveEnvironment) -> None:
        """Take a slot for each, or for none. Raises MaxEnvironments or QuotaExceeded."""
        self.require_room(lives[0].environment.owner, len(lives))
        for live in lives:
            self._live[live.environment.id] = live

    def require_room(self, owner: str, slots: int = 1) -> None:
        """Raise MaxEnvironments or QuotaExceeded unless so many more may run."""
        if refusal := self.refusal(slots):
            raise refusal
        own = [e for e in self.environments() if e.owner == owner and e.holds_capacity]
        if self._per_owner and len(own) + slots > self._per_owner:
            raise QuotaExceeded(
                f"You have {len(own)} environments, of {self._per_owner} that you may have."
            )

    def restore(self, live: LiveEnvironment) -> None:
        """Know one that sleeps since an earlier server. It takes no slot."""
        self._live[live.environment.id] = live

    @property
    def asleep(self) -> int:
        """How many are paused with their state on the disk."""
        return sum(live.environment.is_asleep for live in self._live.values())

    def remove(self, environment_id: str) -> None:
        """Forget it. Idempotent."""
        self._live.pop(environment_id, None)

    def find(self, environment_id: str) -> LiveEnvironment | None:
        """The live environment with this id."""
        return self._live.get(environment_id)

    def everything(self) -> tuple[LiveEnvironment, ...]:
        """All of them as of now, oldest first; a copy, so the caller may await between two."""
        return tuple(self._live.values())

    def environments(self) -> tuple[Environment, ...]:
        """Their environments as of now, oldest first."""
        return tuple(live.environment for live in self._live.values())

    def close(self) -> None:
        """Admit nothing from now on."""
        self._closed = True
