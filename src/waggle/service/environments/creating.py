# SPDX-License-Identifier: Apache-2.0
"""Creates environments: the requests that a client may make, and how one or several come up.

`Limits` turns a request into an `Environment`; it is pure: ids and time are arguments.
`EnvironmentService` uses `Creator`, which takes the slots before any work and, if there are none,
ends creates whose callers have gone (`idempotency.Unclaimed`) to free theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NotRequired, TypedDict, Unpack

import anyio

from waggle.domain.access import SeveralOwners, one_owner
from waggle.domain.environment import Environment, State, parse_timeout
from waggle.domain.errors import InvalidArgument, MaxEnvironments, QuotaExceeded, WaggleError
from waggle.domain.host import FrozenMachine, Progress, no_progress
from waggle.domain.image import AllowedImages
from waggle.domain.machine import Resources
from waggle.domain.names import parse_name
from waggle.domain.network import Network
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.secrets.held import Granting, HeldSecrets, NoGranting
from waggle.domain.snapshot import Snapshot
from waggle.service.environments.ending import Parts
from waggle.service.environments.events import Events
from waggle.service.environments.live import LiveEnvironment
from waggle.service.environments.reaching import OperatorNetwork
from waggle.service.environments.registry import Registry
from waggle.tasks import together


class Creator:
    """Makes environments from `parts`. `wake` resumes one for a visitor of its ports."""

    def __init__(
        self,
        parts: Parts,
        *,
        registry: Registry,
        events: Events,
        make_room: Callable[[str, WaggleError], Awaitable[bool]],
        wake: Callable[[LiveEnvironment], Awaitable[object]],
    ) -> None:
        self._parts = parts
        self._registry = registry
        self._events = events
        self._make_room = make_room
        self._wake = wake

    async def create(
        self,
        described: Sequence[Environment],
        progress: Progress = no_progress,
        frozen: FrozenMachine | None = None,
    ) -> list[Environment]:
        """Start environments of one owner in parallel, as copies of `frozen` if it is given.

        All of them or none. Raises as `EnvironmentService.create` does.
        """
        lives = [self._live(environment) for environment in described]
        try:
            self._registry.admit(*lives)
        except (MaxEnvironments, QuotaExceeded) as refusal:
            if not await self._make_room(described[0].owner, refusal):
                raise
            self._registry.admit(*lives)
        try:
            async with together() as group:
                for live in lives:
                    group.start_soon(self._create, live, progress, frozen)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for live in lives:
                    if live.environment.state is State.RUNNING:
                        await live.end_quietly()
            raise
        for live in lives:
            self._events.notify(live.environment)
        return [live.environment for live in lives]

    async def _create(
        self, live: LiveEnvironment, progress: Progress, frozen: FrozenMachine | None
    ) -> None:
        with self._events.creating():
            await live.create(progress, frozen)

    async def restore(self, environment: Environment) -> None:
        """Enter one that an earlier server paused to disk, and listen for its exposed ports."""
        live = self._live(environment)
        self._registry.restore(live)
        await live.ports.listen_again()

    def _live(self, environment: Environment) -> LiveEnvironment:
        return LiveEnvironment(environment, wake=self._wake, **self._parts)


MIN_MEMORY, MIN_DISK = 128, 64
"""The least MiB that a machine may have."""
NOTHING_ELSE = AllowedImages(frozenset())


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A client's wishes for a new environment; None or an empty name means the preset."""

    runtime: RuntimeName
    image: str | None = None
    """Instead of the runtime's image; the runtime still decides how code runs."""
    name: str | None = None
    timeout_minutes: int | None = None
    network: Network | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    """For all programs of the environment."""
    packages: tuple[str, ...] = ()
    """Packages that will be installed first, kept for the record."""
    secrets: tuple[str, ...] = ()
    """Names of the operator's secrets that its programs may use."""
    snapshots: bool = False
    """Whether it needs a hypervisor that can freeze it."""


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A client's wishes for a copy of a snapshot; None means as in the snapshot."""

    name: str | None = None
    timeout_minutes: int | None = None
    network: Network | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    """Added to those of the snapshot."""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pausing:
    """The operator's settings for paused environments."""

    when_idle: bool = False
    """Whether idle environments are paused to disk before they are destroyed."""
    keep: timedelta = timedelta(days=1)
    """How long they stay on the disk before they are destroyed."""
    max_on_disk: int = 20
    """How many environments of one owner may be paused to disk."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's limits and presets."""

    max_environments: int
    resources: Resources
    idle_timeout: timedelta
    network: Network
    images: Mapping[RuntimeName, str]
    allowed: AllowedImages = NOTHING_ELSE
    per_owner: int = 0
    """Slots of one owner; 0 means all, or half of them if there are several owners."""
    several_owners: SeveralOwners = one_owner
    disk_mib: int = 0
    """MiB of disk of one owner; 0 means all, or half if there are several owners."""
    pausing: Pausing = Pausing()
    most: Resources | None = None
    """The most that one environment may have; None means no more than `resources`."""
    default_runtime: RuntimeName = RuntimeName.PYTHON
    """The runtime of a new environment if the call names none."""
    rules: OperatorNetwork = field(default_factory=OperatorNetwork)
    granting: Granting = field(default_factory=NoGranting)

    def runtime_of(self, name: str | None) -> RuntimeName:
        """Return the requested runtime, or the default one. Raises InvalidRuntime."""
        return RuntimeName.parse(name) if name else self.default_runtime

    def network_of(self, request: CreateRequest) -> Network:
        """Return the network policy of an environment for this request."""
        return request.network or self.network

    def slots(self, resources: Resources) -> int:
        """Return how many slots it takes: its memory in units of the usual, rounded up."""
        return max(1, -(-resources.memory_mib // self.resources.memory_mib))

    def _sized(self, request: CreateRequest) -> Resources:
        """Return the requested size. Raises InvalidArgument outside the operator's limits."""
        usual, most = self.resources, self.most or self.resources
        return Resources(
            _within("cpus", request.cpus, usual.cpus, 1, most.cpus),
            _within("memory_mb", request.memory_mb, usual.memory_mib, MIN_MEMORY, most.memory_mib),
            _within("disk_mb", request.disk_mb, usual.disk_mib, MIN_DISK, most.disk_mib),
        )

    def describe(
        self, request: CreateRequest, *, environment_id: str, owner: str, now: datetime
    ) -> Environment:
        """Return the environment to create for `request`. Raises InvalidArgument."""
        named = self.allowed.check(request.image) if request.image else None
        described = self._described(
            request,
            id=environment_id,
            runtime=request.runtime,
            image=named or self.images[request.runtime],
            owner=owner,
            resources=self._sized(request),
            network=self.network,
            created_at=now,
        )
        return self._with_secrets(described, request.secrets) if request.secrets else described

    def _with_secrets(self, environment: Environment, names: Sequence[str]) -> Environment:
        if environment.network.is_none:
            raise InvalidArgument(
                "Secrets are of no use without a network.", hint="Leave out network, or secrets."
            )
        held, variables = self.granting.grant(environment.id, environment.owner, names)
        if twice := variables.keys() & environment.variables.keys():
            raise InvalidArgument(
                f"The variable {min(twice)} is that of a secret.", hint="Leave it out of env."
            )
        return replace(environment, secrets=held, variables={**environment.variables, **variables})

    def describe_copy(
        self,
        snapshot: Snapshot,
        request: CopyRequest,
        *,
        environment_id: str,
        owner: str,
        now: datetime,
    ) -> Environment:
        """Return the environment to create from a snapshot. Raises InvalidArgument."""
        return self._described(
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
            registries=snapshot.registries,
            secrets=snapshot.secrets,
            hypervisor=snapshot.hypervisor,
        )

    def _described(
        self, request: CreateRequest | CopyRequest, **preset: Unpack[_Preset]
    ) -> Environment:
        """Apply the client's wishes to the preset."""
        minutes = request.timeout_minutes
        name = request.name or f"{preset['runtime']}-{preset['id'][:8]}"
        if request.network is not None:
            preset["network"] = self.rules.check(request.network)
        preset["variables"] = {**preset.get("variables", {}), **request.variables}
        preset["packages"] = (*preset.get("packages", ()), *request.packages)
        return Environment(
            **preset,
            name=parse_name(name),
            idle_timeout=self.idle_timeout if minutes is None else parse_timeout(minutes),
            last_used_at=preset["created_at"],
        )


class _Preset(TypedDict):
    """The fields of an environment before a client's wishes are applied."""

    id: str
    runtime: RuntimeName
    image: str
    owner: str
    resources: Resources
    network: Network
    created_at: datetime
    variables: NotRequired[Mapping[str, str]]
    packages: NotRequired[tuple[str, ...]]
    registries: NotRequired[tuple[str, ...] | None]
    secrets: NotRequired[HeldSecrets]
    hypervisor: NotRequired[str]


def _within(name: str, wish: int | None, usual: int, least: int, most: int) -> int:
    if wish is None:
        return usual
    if not least <= wish <= most:
        raise InvalidArgument(
            f"{name} must be {least} to {most}.",
            hint=f"Leave it out for {usual}; the operator's limit is WAGGLE_MAX_{name.upper()}.",
        )
    return wish
