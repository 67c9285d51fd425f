# SPDX-License-Identifier: Apache-2.0
"""Which environments are live, and whether there is room for another.

Used by `EnvironmentService` only. No method awaits: between the check and the entry nothing else
runs, and that is what makes the cap exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from waggle.domain.access import Quota, SeveralOwners, one_owner, share_of
from waggle.domain.environment import Environment, Resources
from waggle.domain.errors import MaxEnvironments
from waggle.service.environments.live import LiveEnvironment


class Registry:
    """The live environments by id, in order of creation."""

    def __init__(
        self,
        capacity: int,
        per_owner: int = 0,
        slots_of: Callable[[Resources], int] = lambda _resources: 1,
        several_owners: SeveralOwners = one_owner,
    ) -> None:
        """`per_owner` is how many slots one owner may hold; 0 means a share of the capacity."""
        self._capacity = capacity
        self._per_owner = per_owner
        self._slots_of = slots_of
        self._several_owners = several_owners
        self._live: dict[str, LiveEnvironment] = {}
        self._closed = False

    def refusal(self, slots: int = 1) -> MaxEnvironments | None:
        """Why so many more cannot be admitted now, or None."""
        if self._closed:
            return MaxEnvironments(
                "The server is shutting down.", hint="Try again when it is back."
            )
        held = self.held
        if held >= self._capacity:
            return MaxEnvironments(f"All {self._capacity} environments are in use.")
        if held + slots > self._capacity:
            left = self._capacity - held
            return MaxEnvironments(f"{slots} more do not fit: {left} of {self._capacity} are free.")
        return None

    def admit(self, *lives: LiveEnvironment) -> None:
        """Take a slot for each, or for none. Raises MaxEnvironments or QuotaExceeded."""
        slots = sum(self._slots_of(live.environment.resources) for live in lives)
        self.require_room(lives[0].environment.owner, slots)
        for live in lives:
            self._live[live.environment.id] = live

    def require_room(self, owner: str, slots: int = 1) -> None:
        """Raise MaxEnvironments or QuotaExceeded unless so many more may run."""
        quota = self._quota
        if quota.most < self._capacity and not self._closed:  # tells more than that all are taken
            own = self._held(each for each in self.environments() if each.owner == owner)
            quota.require(owner, own, slots)
        if refusal := self.refusal(slots):
            raise refusal

    @property
    def _quota(self) -> Quota:
        share = share_of(self._capacity, several=self._several_owners())
        return Quota(
            "environments in memory",
            self._per_owner or share,
            "WAGGLE_MAX_ENVIRONMENTS_PER_OWNER",
            "Destroy one of yours, or pause it with to_disk, then try again.",
        )

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return self._held(self.environments())

    def _held(self, environments: Iterable[Environment]) -> int:
        return sum(self._slots_of(each.resources) for each in environments if each.holds_capacity)

    def require_room_for(self, environment: Environment) -> None:
        """Raise MaxEnvironments or QuotaExceeded unless this one may run, too."""
        self.require_room(environment.owner, self._slots_of(environment.resources))

    def restore(self, live: LiveEnvironment) -> None:
        """Know one that sleeps since an earlier server. It takes no slot."""
        self._live[live.environment.id] = live

    def asleep(self, owner: str) -> set[str]:
        """The ids of an owner's that are paused with their state on the disk."""
        return {each.id for each in self.environments() if each.owner == owner and each.is_asleep}

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
