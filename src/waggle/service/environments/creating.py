# SPDX-License-Identifier: Apache-2.0
"""Environments that come up, one or several at once: all of them or none.

Used by `EnvironmentService`, which says what they are. Takes their slots before any work; where
there are none, what its callers gave up makes room.

What a client asks for when it creates an environment, and what the operator makes of it.

Pure: ids and time are given. Used by `EnvironmentService` and by whoever builds its arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NotRequired, TypedDict, Unpack

import anyio
import anyio.abc

from waggle.domain.access import SeveralOwners, one_owner
from waggle.domain.environment import Environment, Resources, State, parse_name, parse_timeout
from waggle.domain.errors import InvalidArgument, MaxEnvironments, QuotaExceeded, WaggleError
from waggle.domain.host import EnvironmentHost, Moment, Progress, no_progress
from waggle.domain.image import AllowedImages
from waggle.domain.network import NetworkPolicy
from waggle.domain.observer import Clock, EnvironmentStore
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import Snapshot
from waggle.service.environments.live import LiveEnvironment
from waggle.service.environments.registry import News, Registry
from waggle.tasks import together


class Arrivals:
    """Makes environments. `changed` is told of each whose state is another later."""

    def __init__(
        self,
        host: EnvironmentHost,
        store: EnvironmentStore,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
        *,
        registry: Registry,
        news: News,
        changed: Callable[[Environment], None],
        make_room: Callable[[str, WaggleError], Awaitable[bool]],
    ) -> None:
        self._host = host
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._registry = registry
        self._news = news
        self._changed = changed
        self._make_room = make_room

    async def bring_up(
        self,
        described: Sequence[Environment],
        progress: Progress = no_progress,
        moment: Moment | None = None,
    ) -> list[Environment]:
        """Have environments of one owner come up, at once; from a moment if one is given.

        All of them or none. Raises as `create` does.
        """
        lives = [self.live(environment) for environment in described]
        try:
            self._registry.admit(*lives)
        except (MaxEnvironments, QuotaExceeded) as refusal:
            if not await self._make_room(described[0].owner, refusal):
                raise
            self._registry.admit(*lives)
        try:
            async with together() as group:
                for live in lives:
                    group.start_soon(self._bring_up, live, progress, moment)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for live in lives:
                    if live.environment.state is State.RUNNING:
                        await end_quietly(live)
            raise
        for live in lives:
            self._news.tell(live.environment)
        return [live.environment for live in lives]

    async def _bring_up(
        self, live: LiveEnvironment, progress: Progress, moment: Moment | None
    ) -> None:
        with self._news.creating():
            await live.bring_up(progress, moment)

    def live(self, environment: Environment) -> LiveEnvironment:
        """One to be brought up, or one that sleeps."""
        return LiveEnvironment(
            environment,
            host=self._host,
            store=self._store,
            clock=self._clock,
            tasks=self._tasks,
            changed=self._changed,
        )


async def end_quietly(live: LiveEnvironment) -> None:
    """Destroy it; what fails is logged where it happens."""
    with contextlib.suppress(Exception):  # logged where it happened
        await live.end()


MIN_MEMORY, MIN_DISK = 128, 64
"""MiB that a machine needs."""
NOTHING_ELSE = AllowedImages(frozenset())


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a client asks for; None, or an empty name, means the operator's preset."""

    runtime: RuntimeName
    image: str | None = None
    """Instead of the runtime's own; the runtime still says how code runs."""
    name: str | None = None
    timeout_minutes: int | None = None
    network: NetworkPolicy | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    """For all its programs."""
    packages: tuple[str, ...] = ()
    """What will be installed first, to be remembered."""


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """What a client asks for when an environment goes on from a snapshot; None means as there."""

    name: str | None = None
    timeout_minutes: int | None = None
    network: NetworkPolicy | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    """Beside those that it has."""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pausing:
    """What the operator wants of paused environments."""

    when_idle: bool = False
    """Whether idle environments are put to sleep on the disk before they are destroyed."""
    keep: timedelta = timedelta(days=1)
    """How long they sleep before they are destroyed."""
    max_asleep: int = 20
    """Of one owner."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows and presets."""

    max_environments: int
    resources: Resources
    idle_timeout: timedelta
    network: NetworkPolicy
    images: Mapping[RuntimeName, str]
    allowed: AllowedImages = NOTHING_ELSE
    per_owner: int = 0
    """Slots of one owner; 0 means all, or half of them where there are several owners."""
    several_owners: SeveralOwners = one_owner
    disk_mib: int = 0
    """Of one owner; 0 means all, or half of what there is where there are several owners."""
    pausing: Pausing = Pausing()
    most: Resources | None = None
    """What one environment may have at most; None means no more than `resources`."""
    default_runtime: RuntimeName = RuntimeName.PYTHON
    """Of an environment that a call makes which names none."""

    def runtime_of(self, asked: str | None) -> RuntimeName:
        """The runtime that is asked for, or the default one. Raises InvalidRuntime."""
        return RuntimeName.parse(asked) if asked else self.default_runtime

    def network_of(self, request: CreateRequest) -> NetworkPolicy:
        """What an environment that is asked for like this may reach."""
        return request.network or self.network

    def slots(self, resources: Resources) -> int:
        """How many slots an environment takes: one for each of the usual memory, begun or whole."""
        return max(1, -(-resources.memory_mib // self.resources.memory_mib))

    def _sized(self, request: CreateRequest) -> Resources:
        """The size that is asked for, within what the operator allows. Raises InvalidArgument."""
        usual, most = self.resources, self.most or self.resources
        return Resources(
            _within("cpus", request.cpus, usual.cpus, 1, most.cpus),
            _within("memory_mb", request.memory_mb, usual.memory_mib, MIN_MEMORY, most.memory_mib),
            _within("disk_mb", request.disk_mb, usual.disk_mib, MIN_DISK, most.disk_mib),
        )

    def describe(
        self, request: CreateRequest, *, environment_id: str, owner: str, now: datetime
    ) -> Environment:
        """The environment to create for `request`. Raises InvalidArgument."""
        named = self.allowed.check(request.image) if request.image else None
        return self._asked(
            request,
            id=environment_id,
            runtime=request.runtime,
            image=named or self.images[request.runtime],
            owner=owner,
            resources=self._sized(request),
            network=self.network,
            created_at=now,
        )

    def describe_copy(
        self,
        snapshot: Snapshot,
        request: CopyRequest,
        *,
        environment_id: str,
        owner: str,
        now: datetime,
    ) -> Environment:
        """The environment to create from a snapshot. Raises InvalidArgument."""
        return self._asked(
            request,
            id=environment_id,
            runtime=snapshot.runtime,
            image=snapshot.image,
            owner=owner,
            resources=snapshot.resources,
            network=snapshot.network,
            created_at=now,
            variables=snapshot.variables,
            packages=snapshot.packages,
        )

    def _asked(
        self, request: CreateRequest | CopyRequest, **preset: Unpack[_Preset]
    ) -> Environment:
        """With the name, the idle time and the network that a client asks for, if it does."""
        minutes = request.timeout_minutes
        name = request.name or f"{preset['runtime']}-{preset['id'][:8]}"
        preset["network"] = request.network or preset["network"]
        preset["variables"] = {**preset.get("variables", {}), **request.variables}
        preset["packages"] = (*preset.get("packages", ()), *request.packages)
        return Environment(
            **preset,
            name=parse_name(name),
            idle_timeout=self.idle_timeout if minutes is None else parse_timeout(minutes),
            last_used_at=preset["created_at"],
        )


class _Preset(TypedDict):
    """What an environment has whatever a client asks for; the network may still be another."""

    id: str
    runtime: RuntimeName
    image: str
    owner: str
    resources: Resources
    network: NetworkPolicy
    created_at: datetime
    variables: NotRequired[Mapping[str, str]]
    packages: NotRequired[tuple[str, ...]]


def _within(name: str, asked: int | None, usual: int, least: int, most: int) -> int:
    if asked is None:
        return usual
    if not least <= asked <= most:
        raise InvalidArgument(
            f"{name} must be {least} to {most}.",
            hint=f"Leave it out for {usual}; the operator's limit is WAGGLE_MAX_{name.upper()}.",
        )
    return asked
