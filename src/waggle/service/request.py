# SPDX-License-Identifier: Apache-2.0
"""What a client asks for when it creates an environment, and what the operator makes of it.

Pure: ids and time are given. Used by `EnvironmentService` and by whoever builds its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypedDict, Unpack

from waggle.domain.environment import Environment, Resources, parse_name, parse_timeout
from waggle.domain.image import AllowedImages
from waggle.domain.network import NetworkPolicy
from waggle.domain.runtime import RuntimeName
from waggle.domain.snapshot import Snapshot

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


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """What a client asks for when an environment goes on from a snapshot; None means as there."""

    name: str | None = None
    timeout_minutes: int | None = None
    network: NetworkPolicy | None = None


@dataclass(frozen=True, slots=True)
class Pausing:
    """What the operator wants of paused environments."""

    when_idle: bool = False
    """Whether idle environments are put to sleep on the disk before they are destroyed."""
    keep: timedelta = timedelta(days=1)
    """How long they sleep before they are destroyed."""
    max_asleep: int = 20


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
    """Environments of one owner; 0 means any number."""
    pausing: Pausing = Pausing()
    default_runtime: RuntimeName = RuntimeName.PYTHON
    """Of an environment that a call makes which names none."""

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
            resources=self.resources,
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
        )

    def _asked(
        self, request: CreateRequest | CopyRequest, **preset: Unpack[_Preset]
    ) -> Environment:
        """With the name, the idle time and the network that a client asks for, if it does."""
        minutes = request.timeout_minutes
        name = request.name or f"{preset['runtime']}-{preset['id'][:8]}"
        preset["network"] = request.network or preset["network"]
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
