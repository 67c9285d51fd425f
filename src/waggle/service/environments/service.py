# SPDX-License-Identifier: Apache-2.0
"""Environments as a client knows them: create, use, list, pause, destroy.

Called by `waggle.mcp` and the reaper. It decides who may do what and whether there is room;
`LiveEnvironment` does the rest. Knows nothing of hypervisors, SSH or MCP.
"""

from __future__ import annotations

import builtins
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import anyio
import anyio.abc

from waggle.domain.access import find_id, parse_reference_text
from waggle.domain.environment import Environment, State, parse_timeout
from waggle.domain.errors import NotFound
from waggle.domain.host import EnvironmentHost, FrozenMachine, Guest, Progress, no_progress
from waggle.domain.machine import Resources
from waggle.domain.names import is_id
from waggle.domain.observer import Clock, EnvironmentStore, NewId, Observer
from waggle.domain.programs import Left
from waggle.domain.snapshot import Snapshot
from waggle.service.environments.creating import CopyRequest, CreateRequest, Creator, Limits
from waggle.service.environments.ending import Parts
from waggle.service.environments.events import Events
from waggle.service.environments.guest_loads import GuestLoads
from waggle.service.environments.live import LiveEnvironment
from waggle.service.environments.pausing import Pauses
from waggle.service.environments.recovering import recover
from waggle.service.environments.registry import DiskShares, Inspection, Registry, inspected
from waggle.service.idempotency import Unclaimed

__all__ = ["CreateRequest", "EnvironmentService", "Limits"]


class EnvironmentService:
    """Use cases of environments. Build one per server, inside the task group `tasks`.

    All methods may run concurrently in one event loop. `aclose` destroys all not paused to disk.
    """

    def __init__(
        self,
        *,
        host: EnvironmentHost,
        store: EnvironmentStore,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
        tasks: anyio.abc.TaskGroup,
        observer: Observer | None = None,
    ) -> None:
        self._host = host
        self._store = store
        self.limits = limits
        self._clock = clock
        self._new_id = new_id
        self._observer = observer or Observer()
        self.events = Events(self._observer, clock, limits.rules.equip)
        """Calls listeners when an environment is created, changes or is destroyed."""
        self._registry = Registry(
            limits.max_environments, limits.per_owner, limits.slots, limits.several_owners
        )
        self.guest_loads = GuestLoads(self._registry.everything, time.monotonic)
        self.unclaimed = Unclaimed()  # creates whose callers have gone
        self.disk = DiskShares(host, self._registry, limits.disk_mib, limits.several_owners)
        self._pauses = Pauses(self._registry, limits.pausing, clock, host, self.disk, self.events)
        hooks, changed = self.events, self._changed
        self._creator = Creator(
            Parts(host=host, store=store, clock=clock, tasks=tasks, changed=changed, hooks=hooks),
            registry=self._registry,
            events=self.events,
            make_room=self.unclaimed.make_room,
            wake=self._pauses.resume,
        )

    def _changed(self, environment: Environment) -> None:
        if environment.state is State.DESTROYED:
            self._registry.remove(environment.id)
        self.events.notify(environment)

    async def recover(self) -> int:
        """Remove what an earlier server left, except what is paused to disk: see `recovering`."""
        until = self._clock() + self.limits.pausing.keep
        removed, on_disk = await recover(self._host, self._store, until)
        for environment in on_disk:
            await self._creator.restore(environment)
        return removed

    async def create(
        self, request: CreateRequest, *, owner: str, progress: Progress = no_progress
    ) -> Environment:
        """Boot a new environment and return it running.

        Capacity is reserved before any work; one that fails or is cancelled leaves nothing. Raises
        MaxEnvironments, QuotaExceeded, InvalidArgument, DiskFull, NotFound, or as the host.
        """
        hypervisor = self._host.hypervisor_for(snapshots=request.snapshots)
        described = self.limits.describe(
            request, environment_id=self._new_id(), owner=owner, now=self._clock()
        )
        async with self.disk.room(owner):
            chosen = [replace(described, hypervisor=hypervisor)]
            (created,) = await self._creator.create(chosen, progress)
        return created

    async def create_from(
        self,
        snapshot: Snapshot,
        frozen: FrozenMachine,
        request: CopyRequest,
        *,
        owner: str,
        progress: Progress = no_progress,
    ) -> Environment:
        """Return a new environment that continues from a snapshot. Raises as `create` does."""
        described = self.limits.describe_copy(
            snapshot, request, environment_id=self._new_id(), owner=owner, now=self._clock()
        )
        async with self.disk.room(owner, snapshot.size):
            (created,) = await self._creator.create([described], progress, frozen)
        return created

    async def fork(
        self, origin: Environment, frozen: FrozenMachine, count: int
    ) -> builtins.list[Environment]:
        """Return `count` copies of `origin`, whose machine is `frozen`. Raises as `create` does."""
        now, call = self._clock(), self._new_id()
        described = [origin.copy(self._new_id(), now, call) for _ in range(count)]
        async with self.disk.room(origin.owner, copies=count, of=origin.id):
            return await self._creator.create(described, no_progress, frozen)

    def require_room(self, owner: str, count: int, resources: Resources) -> None:
        """Raise MaxEnvironments or QuotaExceeded unless `count` more of that size may run."""
        self._registry.require_room(owner, count * self.limits.slots(resources))

    @property
    def slots_held(self) -> int:
        """The number of the operator's slots that are taken."""
        return self._registry.held

    def pauses_when_idle(self, environment: Environment | None = None) -> bool:
        """Whether it is paused to disk when idle, or a new one; otherwise it is destroyed."""
        return self._pauses.pauses_when_idle(environment.hypervisor if environment else "")

    def list(self, *, owner: str) -> builtins.list[Environment]:
        """Return the owner's live environments, oldest first, failed ones included."""
        return self._registry.of(owner)

    def all(self) -> builtins.list[Environment]:
        """Return every live environment, for the reaper and the operator."""
        return [*self._registry.environments()]

    def get(self, environment_id: str, *, owner: str) -> Environment:
        """Return one, by its id, its name or the start of its id, as all methods.

        Raises NotFound, or InvalidArgument if it can be neither or fits several of the owner's.
        """
        return self._owned(environment_id, owner).environment

    async def inspect(self, environment_id: str, *, owner: str) -> Inspection:
        """Return all that is known, and what its guest says. Not a use. Raises as `get` does."""
        return await inspected(self._owned(environment_id, owner), self._clock, self._host)

    async def left(self, environment_id: str, *, owner: str, always: bool = True) -> Left:
        """Return what calls left running: see `LiveEnvironment.left`. Raises as `get`, too."""
        return await self._owned(environment_id, owner).left(always=always)

    def touch(self, environment_id: str, *, owner: str) -> Environment:
        """Restart its idle time if it runs, and return it. Raises as `get` does."""
        return self._owned(environment_id, owner).touch()

    async def extend(self, environment_id: str, minutes: int, *, owner: str) -> Environment:
        """Set its idle timeout to that many minutes, 1 to 60, and restart its idle time.

        Raises as `get` does, and NotRunning.
        """
        return await self._owned(environment_id, owner).extend(parse_timeout(minutes, "minutes"))

    def _owned(self, environment_id: str, owner: str) -> LiveEnvironment:
        """Return the owner's environment with that id, name or start of an id."""
        reference = parse_reference_text(environment_id, "environment_id", "create_environment")
        found = find_id(reference, ((own.id, own.name) for own in self.list(owner=owner)))
        live = self._registry.find(found) if found else None
        if live is None:
            raise NotFound(f"There is no environment {reference}.")
        return live

    @contextlib.asynccontextmanager
    async def using(
        self, environment_id: str, *, owner: str
    ) -> AsyncGenerator[tuple[Environment, Guest]]:
        """Hold an environment for the length of a call: it counts as active until the end.

        A paused one is resumed first. Raises as `get`, and on entry NotRunning or as `resume`.
        """
        live = self._owned(environment_id, owner)
        if live.environment.state in (State.PAUSED, State.RESUMING):
            await self._pauses.resume(live)
        async with live.using() as held:
            yield held

    def life(self, environment_id: str) -> LiveEnvironment | None:
        """Return the life of an environment, for jobs and visits, whose owner is known already."""
        return self._registry.find(environment_id)

    async def pause(self, environment_id: str, *, owner: str, to_disk: bool) -> Environment:
        """See `Pauses.pause`. Raises NotFound, too."""
        return await self._pauses.pause(self._owned(environment_id, owner), to_disk=to_disk)

    async def resume(
        self, environment_id: str, *, owner: str, progress: Progress = no_progress
    ) -> Environment:
        """See `Pauses.resume`. Raises NotFound, too."""
        return await self._pauses.resume(self._owned(environment_id, owner), progress)

    async def roll_back(
        self,
        environment_id: str,
        frozen: FrozenMachine,
        *,
        owner: str,
        progress: Progress = no_progress,
    ) -> Environment:
        """Make it a copy of `frozen`. Raises NotFound, Busy, NotRunning, DiskFull, as the host."""
        live = self._owned(environment_id, owner)
        self.disk.require()
        await self._pauses.resume(live)
        return await live.roll_back(progress, frozen)

    @contextlib.asynccontextmanager
    async def temporary(
        self, request: CreateRequest, *, owner: str, progress: Progress = no_progress
    ) -> AsyncGenerator[Environment]:
        """Yield an environment that is destroyed at the end of the block in any case.

        If it cannot be destroyed, the reaper tries again. Raises as `create` does.
        """
        environment = await self.create(request, owner=owner, progress=progress)
        try:
            yield environment
        finally:
            if live := self._registry.find(environment.id):
                await live.end_quietly()

    async def destroy(self, environment_id: str, *, owner: str, grace: float = 0.0) -> Environment:
        """Destroy an environment and return it destroyed. Idempotent while it is remembered.

        Programs have `grace` seconds. A create in progress is cancelled. Finishes when cancelled.
        Raises as `get`, or the error that kept it; then it is in ERROR, and the reaper tries again.
        """
        try:
            live = self._owned(environment_id, owner)
        except NotFound:
            whole = environment_id.strip().lower()
            known = await self._store.get(whole) if is_id(whole) else None
            if known is None or known.owner != owner or known.state is not State.DESTROYED:
                raise
            return known
        await (live.end_gently(grace) if grace else live.end())
        return live.environment

    async def retire(self, environment_id: str) -> State | None:
        """Pause an idle one to disk or destroy it; return PAUSED or DESTROYED. For the reaper.

        None if it was used meanwhile, is stopped by a full disk, or is kept in memory because it
        cannot be paused to disk. Raises what keeps it from being destroyed.
        """
        live = self._registry.find(environment_id)
        if live is None or not live.environment.is_expired(self._clock()) or live.is_stalled:
            return None
        if self._pauses.may_keep(live.environment):
            return State.PAUSED if await self._pauses.keep(live) else None
        ended = await live.end(wanted=lambda environment: environment.is_expired(self._clock()))
        if ended:
            self._observer.environment_reaped()
        return State.DESTROYED if ended else None

    async def aclose(self) -> None:
        """Refuse new creates and destroy every environment, in parallel. Idempotent.

        Those paused to disk stay for the next server. Creates in progress are undone. What cannot
        be destroyed in three tries is logged and stays on record; no deadline cuts a try short.
        """
        self._registry.close()
        for _ in range(3):
            async with anyio.create_task_group() as group:
                group.start_soon(self.unclaimed.aclose)
                for live in self._registry.everything():  # some may be on their way to the disk
                    group.start_soon(live.end_unless_on_disk)

    async def not_ready(self) -> str | None:
        """Return why a create would fail now, or None: capacity first, then the host."""
        refusal = self._registry.refusal()
        return refusal.message if refusal else await self._host.not_ready()
