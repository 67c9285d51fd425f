# SPDX-License-Identifier: Apache-2.0
"""The state that `EnvironmentService` keeps about all live environments.

`Registry` holds the live environments and counts the slots they take. None of its methods awaits:
nothing else runs between the check and the entry, which makes the cap exact. `Inspection` is all
that is known, what the guest says included, and `DiskShares` says how much of the host's disk an
owner may use. Knows no files.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from waggle.domain.access import Quota, SeveralOwners, one_owner, share_of
from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost, MaxEnvironments
from waggle.domain.exposure import ExposedPort
from waggle.domain.guest_agent import GuestReport
from waggle.domain.host import EnvironmentHost
from waggle.domain.machine import Resources
from waggle.domain.network.use import NetworkUse
from waggle.domain.use import ResourceUse
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
        """Return why that many more slots cannot be given now, or None."""
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
        """Take slots for all of them or none. Raises MaxEnvironments or QuotaExceeded."""
        slots = sum(self._slots_of(live.environment.resources) for live in lives)
        self.require_room(lives[0].environment.owner, slots)
        for live in lives:
            self._live[live.environment.id] = live

    def require_room(self, owner: str, slots: int = 1) -> None:
        """Raise MaxEnvironments or QuotaExceeded unless that many more slots are free."""
        quota = self._quota
        if quota.most < self._capacity and not self._closed:  # the more precise refusal comes first
            quota.require(owner, self._held(self.of(owner)), slots)
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
        """The number of slots that are taken."""
        return self._held(self.environments())

    def _held(self, environments: Iterable[Environment]) -> int:
        return sum(self._slots_of(held.resources) for held in environments if held.holds_capacity)

    def require_room_for(self, environment: Environment) -> None:
        """Raise MaxEnvironments or QuotaExceeded unless this one may run."""
        self.require_room(environment.owner, self._slots_of(environment.resources))

    def restore(self, live: LiveEnvironment) -> None:
        """Enter one that an earlier server paused to disk. It takes no slot."""
        self._live[live.environment.id] = live

    def on_disk(self, owner: str) -> set[str]:
        """Return the ids of an owner's environments that are paused to disk."""
        return {environment.id for environment in self.of(owner) if environment.is_on_disk}

    def remove(self, environment_id: str) -> None:
        """Forget it. Idempotent."""
        self._live.pop(environment_id, None)

    def find(self, environment_id: str) -> LiveEnvironment | None:
        """Return the live environment with this id, or None."""
        return self._live.get(environment_id)

    def everything(self) -> tuple[LiveEnvironment, ...]:
        """Return all of them as of now, oldest first; a copy, so the caller may await."""
        return tuple(self._live.values())

    def environments(self) -> tuple[Environment, ...]:
        """Return the environments as of now, oldest first."""
        return tuple(live.environment for live in self._live.values())

    def of(self, owner: str) -> list[Environment]:
        """Return an owner's environments as of now, oldest first."""
        return [own for own in self.environments() if own.owner == owner]

    def close(self) -> None:
        """Admit nothing from now on."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class Inspection:
    """One environment at `now`, with what its machine uses, if there is one."""

    environment: Environment
    now: datetime
    resource_use: ResourceUse | None
    ports: tuple[ExposedPort, ...]
    network_use: NetworkUse | None = None
    said: GuestReport | None = None
    """What its guest says of itself; nothing of it is sure."""
    is_agent_lost: bool = False
    """It runs, and its guest says nothing."""
    hypervisor: str = ""
    """The one that runs it, unless that is the one of most new environments."""

    @property
    def is_busy(self) -> bool:
        """Whether a call or a job is in progress: its idle time does not run then."""
        return self.environment.is_in_use

    @property
    def idle_left(self) -> timedelta:
        """How much longer it may stay unused; never below zero."""
        if self.is_busy:
            return self.environment.idle_timeout
        return max(self.environment.expires_at() - self.now, timedelta(0))


async def inspected(
    live: LiveEnvironment, now: Callable[[], datetime], host: EnvironmentHost
) -> Inspection:
    """Return what is known of an environment, and what its guest says."""
    said, is_lost = None, False
    try:
        said = await live.report()
    except GuestLost:
        is_lost = True
    use = await live.resource_use()
    guest = live.current_guest
    network_use = guest.network_use() if guest else None
    own = live.environment.hypervisor
    another = "" if own == host.hypervisor_for(snapshots=False) else own
    known = (live.environment, now(), use, live.ports.all, network_use, said, is_lost)
    return Inspection(*known, another)


FIRST_BYTES = 64 << 20
"""Counted for a new environment until it is up: an empty disk and its files."""


class DiskShares:
    """How much of the disk every owner uses and may use, of all kinds of data together.

    Use cases hold `room` open around work that takes much of the disk. Later writes of a guest are
    bounded by the size of its disk and count from then on. `most_mib` is the limit of one owner; 0
    means a share if there are several: half of what is free and what they hold, together.
    """

    def __init__(
        self,
        host: EnvironmentHost,
        registry: Registry,
        most_mib: int,
        several_owners: SeveralOwners,
    ) -> None:
        self._host = host
        self._registry = registry
        self._most_mib = most_mib
        self._several_owners = several_owners
        self._others: list[Callable[[], Mapping[str, int]]] = []
        self._coming = Counter[str]()
        """Bytes that are about to be written, by owner."""

    def count(self, held: Callable[[], Mapping[str, int]]) -> None:
        """Count what `held` returns from now on: bytes by owner. It must not wait."""
        self._others.append(held)

    def require(self) -> None:
        """Raise DiskFull if the disk has less room than the operator's reserve."""
        self._host.require_disk()

    @contextlib.asynccontextmanager
    async def room(
        self, owner: str, need: int = FIRST_BYTES, *, copies: int = 0, of: str = ""
    ) -> AsyncGenerator[None]:
        """Hold `need` bytes and `copies` of the disk of environment `of` until the block ends.

        Bytes written meanwhile count twice, so that no owner exceeds the limit. Raises
        QuotaExceeded, or DiskFull below the operator's reserve.
        """
        self.require()
        if not self._most_mib and not self._several_owners():
            yield
            return
        use = await self._host.disk_use()
        need += copies * use.of_disks.get(of, 0)
        held = Counter[str]()
        for environment in self._registry.environments():
            held[environment.owner] += use.of_environments.get(environment.id, 0)
        for count in self._others:
            held.update(count())
        share = self._most_mib or share_of((use.free + held.total()) >> 20, several=True)
        quota = Quota(
            "MiB of disk",
            share,
            "WAGGLE_MAX_DISK_MB_PER_OWNER",
            "Destroy environments or delete snapshots of yours that are no longer needed.",
        )
        quota.require(owner, _mib(held[owner] + self._coming[owner]), _mib(need))
        self._coming[owner] += need
        try:
            yield
        finally:
            self._coming[owner] -= need


def _mib(size: int) -> int:
    """Return the size in MiB, rounded up."""
    return -(-size >> 20)
