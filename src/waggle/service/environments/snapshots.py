# SPDX-License-Identifier: Apache-2.0
"""Snapshots, forks and rollbacks: environments that continue from a frozen machine of another.

Called by `waggle.mcp` and the reaper. It decides who may and whether there is room; the guest
freezes its machine, and a `SnapshotShelf` keeps it. Knows nothing of hypervisors, files or MCP.
"""

from __future__ import annotations

import builtins
import contextlib
from collections import Counter
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from waggle.domain.access import Quota, find_id, parse_reference_text
from waggle.domain.environment import Environment
from waggle.domain.errors import FrozenMachineUnusable, InvalidArgument, NotFound, SnapshotFailed
from waggle.domain.host import Guest, Progress, Turn, no_progress
from waggle.domain.names import parse_name
from waggle.domain.observer import Clock, NewId
from waggle.domain.snapshot import Snapshot, SnapshotShelf
from waggle.service.environments.creating import CopyRequest
from waggle.service.environments.events import SETTLES_IN_TURN
from waggle.service.environments.service import EnvironmentService

log = structlog.get_logger(__name__)
MAX_FORKS = 16


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """The operator's limits; `keep` is how long a snapshot is kept."""

    per_owner: int = 10
    keep: timedelta = timedelta(days=1)


def require_count(count: int) -> None:
    """Raise InvalidArgument unless one call may make that many forks."""
    if not 1 <= count <= MAX_FORKS:
        raise InvalidArgument(
            f"count must be 1 to {MAX_FORKS}.", hint="Call again for more copies."
        )


class SnapshotService:
    """Use cases of snapshots."""

    def __init__(
        self,
        environments: EnvironmentService,
        shelf: SnapshotShelf,
        limits: SnapshotLimits,
        *,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._environments = environments
        self._shelf = shelf
        self._limits = limits
        self._quota = Quota(
            "snapshots",
            limits.per_owner,
            "WAGGLE_MAX_SNAPSHOTS",
            "Delete one with delete_snapshot.",
        )
        self._clock = clock
        self._new_id = new_id
        self._taking: dict[str, int] = {}
        environments.disk.count(self._bytes)

    def list(self, *, owner: str) -> list[Snapshot]:
        """Return the owner's snapshots, oldest first."""
        return [snapshot for snapshot in self.all() if snapshot.owner == owner]

    def all(self) -> builtins.list[Snapshot]:
        """Return all owners' snapshots, for the reaper and the pruner."""
        return [*self._shelf.all()]

    def images_in_use(self) -> frozenset[str]:
        """Return the digests of images that environments and snapshots were made from."""
        users = [*self._environments.all(), *self.all()]
        return frozenset(user.booted_from.get("image", "") for user in users)

    def get(self, snapshot_id: str, *, owner: str) -> Snapshot:
        """Return one snapshot, by its id, its name or the start of its id.

        Raises NotFound, or InvalidArgument if it can be neither or fits several of the owner's.
        """
        reference = parse_reference_text(snapshot_id, "snapshot_id", "snapshot_environment")
        own = {snapshot.id: snapshot for snapshot in self.list(owner=owner)}
        found = find_id(reference, ((snapshot.id, snapshot.name) for snapshot in own.values()))
        if found is None:
            raise NotFound(f"There is no snapshot {reference}.", hint="list_snapshots shows yours.")
        return own[found]

    async def take(
        self,
        environment_id: str,
        *,
        owner: str,
        name: str | None = None,
        progress: Progress = no_progress,
    ) -> Snapshot:
        """Freeze an environment's machine and keep it; the environment continues.

        If that fails or is cancelled, nothing is left. Raises NotFound, NotRunning, QuotaExceeded,
        Unsupported, BootFailed, GuestLost, InvalidArgument, DiskFull, NoTurn or SnapshotFailed.
        """
        if name is not None:
            parse_name(name)
        with self._place(owner):
            async with (
                self._environments.using(environment_id, owner=owner) as (origin, guest),
                self._room(origin),
            ):
                await progress(0.0, "Freezing the machine")  # not in its turn: clients may be slow
                await self._environments.events.settle(origin.id)
                async with guest.turn_to_freeze() as turn:
                    kept = await self._keep(origin, guest, turn, name, progress)
        await progress(1.0, "Kept")
        log.info("snapshot_taken", snapshot=kept.id, environment=origin.id, size=kept.size)
        return kept

    async def _keep(
        self, origin: Environment, guest: Guest, turn: Turn, name: str | None, progress: Progress
    ) -> Snapshot:
        await self._environments.events.settle(origin.id, SETTLES_IN_TURN)
        try:
            async with guest.freeze(turn) as frozen:
                await progress(0.5, "Writing its state")
                now = self._clock()
                described = Snapshot.of(
                    self._now(origin),
                    snapshot_id=(snapshot_id := self._new_id()),
                    name=name or f"{origin.name[:54]}-{snapshot_id[:8]}",
                    now=now,
                    expires_at=now + self._limits.keep,
                )
                return await self._shelf.keep(frozen, described)
        except OSError as error:
            raise SnapshotFailed(
                f"The snapshot could not be written: {error.strerror or error}."
            ) from error

    def _now(self, origin: Environment) -> Environment:
        """Return it with the network that it has now: its owner may have tightened it meanwhile."""
        return self._environments.get(origin.id, owner=origin.owner)

    async def create(
        self,
        snapshot_id: str,
        request: CopyRequest,
        *,
        owner: str,
        progress: Progress = no_progress,
    ) -> Environment:
        """Return a new environment that continues from a snapshot.

        Raises NotFound, FrozenMachineUnusable, and as `EnvironmentService.create` does.
        """
        snapshot = self.get(snapshot_id, owner=owner)
        self._environments.require_room(owner, 1, snapshot.resources)
        async with self._shelf.opened(snapshot) as frozen:
            return await self._environments.create_from(
                snapshot, frozen, request, owner=owner, progress=progress
            )

    async def fork(
        self, environment_id: str, count: int, *, owner: str, progress: Progress = no_progress
    ) -> builtins.list[Environment]:
        """Return `count` running copies of an environment, which continues to run.

        All of them or none. `count` is 1 to MAX_FORKS. Raises as `take` and `create` do.
        """
        require_count(count)
        async with self._environments.using(environment_id, owner=owner) as (origin, guest):
            self._environments.require_room(owner, count, origin.resources)
            self._environments.disk.require()
            await progress(0.0, "Freezing the machine")
            await self._environments.events.settle(origin.id)
            async with guest.turn_to_freeze() as turn:
                await self._environments.events.settle(origin.id, SETTLES_IN_TURN)
                async with guest.freeze(turn) as frozen:
                    await progress(0.5, f"Resuming {count} copies")
                    return await self._environments.fork(self._now(origin), frozen, count)

    async def roll_back(
        self,
        environment_id: str,
        snapshot_id: str,
        *,
        owner: str,
        progress: Progress = no_progress,
    ) -> Environment:
        """Replace an environment's state with one of its own snapshots; later state is lost.

        Raises NotFound, NotRunning, Busy, InvalidArgument, FrozenMachineUnusable and as the host.
        """
        snapshot = self.get(snapshot_id, owner=owner)
        environment = self._environments.get(environment_id, owner=owner)
        if snapshot.origin != environment.id:
            raise InvalidArgument(
                f"Snapshot {snapshot.id} is not of environment {environment.id}.",
                hint="create_environment(snapshot=...) continues from any snapshot of yours.",
            )
        if snapshot.hypervisor != environment.hypervisor:  # its file came from elsewhere
            raise FrozenMachineUnusable("It was not frozen by the environment's hypervisor.")
        async with self._shelf.opened(snapshot) as frozen:
            return await self._environments.roll_back(
                environment.id, frozen, owner=owner, progress=progress
            )

    async def delete(self, snapshot_id: str, *, owner: str) -> Snapshot:
        """Delete a snapshot and return it; copies of it are not affected. Raises NotFound."""
        snapshot = self.get(snapshot_id, owner=owner)
        await self._shelf.remove(snapshot.id)
        return snapshot

    async def expire(self) -> builtins.list[str]:
        """Delete expired snapshots and return their ids. For the reaper."""
        gone = [snapshot.id for snapshot in self.all() if snapshot.is_expired(self._clock())]
        for snapshot_id in gone:
            await self._shelf.remove(snapshot_id)
        return gone

    def _bytes(self) -> Counter[str]:
        """Return what snapshots take of the disk, by owner."""
        taken = Counter[str]()
        for snapshot in self.all():
            taken[snapshot.owner] += snapshot.size
        return taken

    def _room(self, origin: Environment) -> AbstractAsyncContextManager[None]:
        """Hold room for a snapshot: at most all of its memory, and a copy of its disk."""
        memory = origin.resources.memory_mib << 20
        return self._environments.disk.room(origin.owner, memory, copies=1, of=origin.id)

    @contextlib.contextmanager
    def _place(self, owner: str) -> Generator[None]:
        """Count one more snapshot of this owner while it is taken. Raises QuotaExceeded."""
        taking = self._taking.get(owner, 0)
        self._quota.require(owner, len(self.list(owner=owner)) + taking)
        self._taking[owner] = taking + 1
        try:
            yield
        finally:
            self._taking[owner] -= 1
            if not self._taking[owner]:
                del self._taking[owner]
