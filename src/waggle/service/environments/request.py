# SPDX-License-Identifier: Apache-2.0
"""What a client asks for when it creates an environment, and what the operator makes of it.

Pure: ids and time are given. Used by `EnvironmentService` and by whoever builds its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NotRequired, TypedDict, Unpack

from waggle.domain.access import SeveralOwners, one_owner
from waggle.domain.environment import Environment, Resources, parse_name, parse_timeout
from waggle.domain.errors import InvalidArgument
from waggle.domain.image import AllowedImages
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import Snapshot

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
