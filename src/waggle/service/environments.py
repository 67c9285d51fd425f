# SPDX-License-Identifier: Apache-2.0
"""Environments as a client knows them: create, use, list, destroy.

The only place that changes an environment's state, reserves capacity and counts calls. Called by
`waggle.mcp`, the reaper and the CLI's server side; calls an `EnvironmentHost` for machines and an
`EnvironmentStore` for memory. Knows nothing of hypervisors, SSH or MCP.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import (
    Environment,
    Resources,
    State,
    parse_id,
    parse_name,
    parse_timeout,
)
from waggle.domain.errors import MaxEnvironments, NotFound, WaggleError
from waggle.domain.host import EnvironmentHost, Guest, Progress, no_progress
from waggle.domain.network import NetworkPolicy
from waggle.domain.protocols import Clock, EnvironmentStore, NewId
from waggle.domain.runtime import RuntimeName

log = structlog.get_logger(__name__)

HOLDING_STATES = frozenset({State.CREATING, State.RUNNING, State.PAUSED, State.DESTROYING})


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows and presets."""

    max_environments: int
    resources: Resources
    idle_timeout: timedelta
    network: NetworkPolicy
    images: Mapping[RuntimeName, str]


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a client asks for; None means the operator's preset."""

    runtime: RuntimeName
    name: str | None = None
    timeout_minutes: int | None = None
    network: NetworkPolicy | None = None


@dataclass(slots=True)
class _Entry:
    """A live environment, its guest once booted, and what serialises its end.

    `creation` cancels a create in progress, `gone` tells when that has been undone.
    """

    environment: Environment
    guest: Guest | None = None
    ending: anyio.Lock = field(default_factory=anyio.Lock)
    creation: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    gone: anyio.Event = field(default_factory=anyio.Event)

    @property
    def holds_capacity(self) -> bool:
        return self.guest is not None or self.environment.state in HOLDING_STATES


class EnvironmentService:
    """Use cases of environments. Build one per server, inside the task group it is given.

    All methods are safe to call concurrently from one event loop. `aclose` destroys everything.
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
    ) -> None:
        self._host = host
        self._store = store
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._tasks = tasks
        self._entries: dict[str, _Entry] = {}
        self._closing = False

    async def recover(self) -> int:
        """Remove what an earlier server left behind; returns how many environments that were."""
        left = await self._store.unfinished()
        for environment in left:
            await self._host.discard(environment)
            await self._store.save(
                replace(environment, state=State.DESTROYED, error="The server was restarted.")
            )
            log.info("environment_recovered", environment=environment.id)
        return len(left)

    async def create(
        self, request: CreateRequest, *, owner: str, progress: Progress = no_progress
    ) -> Environment:
        """Boot a new environment and return it running.

        Capacity is reserved before any work; a failed or cancelled create frees it and leaves
        nothing. Raises MaxEnvironments, InvalidArgument, and what `EnvironmentHost.create` raises.
        """
        environment = self._describe(request, owner)
        entry = self._reserve(environment)
        try:
            with entry.creation:
                await self._store.save(environment)
                entry.guest = await self._host.create(environment, progress)
                entry.environment = self._booted(entry.environment, entry.guest)
                await self._store.save(entry.environment)
            if entry.creation.cancelled_caught:
                raise NotFound(f"Environment {environment.id} was destroyed while it was created.")
        except BaseException as error:
            await self._abandon(entry, error)
            raise
        self._tasks.start_soon(self._watch, entry, entry.guest)
        log.info("environment_created", environment=environment.id, runtime=environment.runtime)
        return entry.environment

    def _booted(self, environment: Environment, guest: Guest) -> Environment:
        return replace(
            environment.to(State.RUNNING),
            ssh_port=guest.ssh_port,
            machine=guest.machine,
            booted_from=guest.booted_from,
            last_used_at=self._clock(),
        )

    async def _abandon(self, entry: _Entry, error: BaseException) -> None:
        """Undo a create that failed or was cancelled, whole, whatever happens to the caller."""
        with anyio.CancelScope(shield=True):
            try:
                if entry.guest is not None:
                    await entry.guest.destroy()
                    entry.guest = None
            finally:
                await self._forget(entry, reason=f"Create failed: {type(error).__name__}")
                entry.gone.set()

    def _describe(self, request: CreateRequest, owner: str) -> Environment:
        environment_id = self._new_id()
        minutes = request.timeout_minutes
        idle = self._limits.idle_timeout if minutes is None else parse_timeout(minutes)
        now = self._clock()
        return Environment(
            id=environment_id,
            name=parse_name(request.name or f"{request.runtime}-{environment_id[:8]}"),
            runtime=request.runtime,
            image=self._limits.images[request.runtime],
            owner=owner,
            resources=self._limits.resources,
            network=request.network or self._limits.network,
            idle_timeout=idle,
            created_at=now,
            last_used_at=now,
        )

    def _reserve(self, environment: Environment) -> _Entry:
        """Take a slot. No await between check and insert: this is what makes the cap exact."""
        if self._closing:
            raise MaxEnvironments("The server is shutting down.", hint="Try again when it is back.")
        held = sum(entry.holds_capacity for entry in self._entries.values())
        if held >= self._limits.max_environments:
            raise MaxEnvironments(f"All {self._limits.max_environments} environments are in use.")
        entry = _Entry(environment)
        self._entries[environment.id] = entry
        return entry

    def list(self, *, owner: str) -> list[Environment]:
        """The owner's live environments, oldest first."""
        return [e.environment for e in self._entries.values() if e.environment.owner == owner]

    def all(self) -> list[Environment]:
        """Every live environment, for the reaper and the operator."""
        return [entry.environment for entry in self._entries.values()]

    def get(self, environment_id: str, *, owner: str) -> Environment:
        """One environment. Raises InvalidArgument (malformed id) or NotFound."""
        return self._entry(environment_id, owner).environment

    def _entry(self, environment_id: str, owner: str) -> _Entry:
        entry = self._entries.get(parse_id(environment_id))
        if entry is None or entry.environment.owner != owner:
            raise NotFound(f"There is no environment {parse_id(environment_id)}.")
        return entry

    @contextlib.asynccontextmanager
    async def using(
        self, environment_id: str, *, owner: str
    ) -> AsyncIterator[tuple[Environment, Guest]]:
        """Hold an environment for the length of a call: it counts as active until the end.

        Raises NotFound, InvalidArgument or NotRunning.
        """
        entry = self._entry(environment_id, owner)
        entry.environment.require_running()
        guest = entry.guest
        assert guest is not None
        entry.environment = entry.environment.call_started(self._clock())
        try:
            yield entry.environment, guest
        finally:
            entry.environment = entry.environment.call_ended(self._clock())

    async def destroy(self, environment_id: str, *, owner: str) -> Environment:
        """Destroy an environment and return it destroyed. Idempotent while it is remembered.

        Finishes even when the caller is cancelled. Raises NotFound or InvalidArgument.
        """
        normal = parse_id(environment_id)
        entry = self._entries.get(normal)
        if entry is None or entry.environment.owner != owner:
            known = await self._store.get(normal)
            if known is not None and known.owner == owner and known.state is State.DESTROYED:
                return known
            raise NotFound(f"There is no environment {normal}.")
        with anyio.CancelScope(shield=True):
            return await self._end(entry)

    async def destroy_expired(self, environment_id: str) -> bool:
        """The reaper's destroy: does nothing if the environment was used since it looked."""
        entry = self._entries.get(environment_id)
        if entry is None or not entry.environment.is_expired(self._clock()):
            return False
        with anyio.CancelScope(shield=True):
            await self._end(entry)
        return True

    async def _end(self, entry: _Entry) -> Environment:
        """Stop the machine, then forget it. On failure it stays, in ERROR, for the reaper."""
        if entry.environment.state is State.CREATING:
            entry.creation.cancel()
            await entry.gone.wait()
        async with entry.ending:
            if entry.environment.state is State.DESTROYED:
                return entry.environment
            entry.environment = entry.environment.to(State.DESTROYING)
            try:
                if entry.guest is not None:
                    await entry.guest.destroy()
                    entry.guest = None
            except Exception as error:
                entry.environment = entry.environment.to(
                    State.ERROR, error=f"Destroy failed: {error}"
                )
                log.exception("environment_destroy_failed", environment=entry.environment.id)
                raise
            return await self._forget(entry, reason=None)

    async def _forget(self, entry: _Entry, *, reason: str | None) -> Environment:
        entry.environment = replace(entry.environment, state=State.DESTROYED, error=reason)
        self._entries.pop(entry.environment.id, None)
        await self._store.save(entry.environment)
        log.info("environment_destroyed", environment=entry.environment.id, reason=reason)
        return entry.environment

    async def _watch(self, entry: _Entry, guest: Guest) -> None:
        """Notice a machine that dies by itself, free what it held, and keep the cause to show."""
        cause = await guest.wait_dead()
        async with entry.ending:
            if entry.environment.state is not State.RUNNING:
                return
            entry.environment = entry.environment.to(
                State.ERROR, error=f"The machine died: {cause}"
            )
            log.warning("environment_died", environment=entry.environment.id, cause=cause)
            try:
                await guest.destroy()
                entry.guest = None
                await self._store.save(entry.environment)
            except (WaggleError, OSError):
                log.exception("environment_cleanup_failed", environment=entry.environment.id)

    async def aclose(self) -> None:
        """Refuse new creates and destroy every environment, in parallel. Idempotent.

        Creates in progress are cancelled and undone.
        """
        self._closing = True
        async with anyio.create_task_group() as group:
            for entry in list(self._entries.values()):
                group.start_soon(self._end_quietly, entry)

    async def _end_quietly(self, entry: _Entry) -> None:
        with contextlib.suppress(Exception), anyio.CancelScope(shield=True):
            await self._end(entry)

    async def not_ready(self) -> str | None:
        """Why a create would fail right now, or None: capacity first, then the host."""
        held = sum(entry.holds_capacity for entry in self._entries.values())
        if held >= self._limits.max_environments:
            return f"All {self._limits.max_environments} environments are in use."
        return await self._host.not_ready()
