# SPDX-License-Identifier: Apache-2.0
"""A snapshot: an environment at one moment, kept under a name for its owner. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from waggle.domain.environment import Environment, Resources
from waggle.domain.host import Moment
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.runtime import RuntimeName


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an owner may know of a snapshot.

    `origin` is the id of the environment that it was taken of. `size` is bytes on the disk.
    Environments made from it have its runtime, image, resources, directory and variables.
    """

    id: str
    name: str
    owner: str
    origin: str
    runtime: RuntimeName
    image: str
    resources: Resources
    network: NetworkPolicy
    directory: str
    made_of: Mapping[str, str]
    """Digests of the image, the kernel and the kit, and what the VMM is."""
    created_at: datetime
    expires_at: datetime
    size: int = 0
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    packages: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        environment: Environment,
        *,
        snapshot_id: str,
        name: str,
        now: datetime,
        expires_at: datetime,
    ) -> Snapshot:
        """One of that environment as it is now."""
        return cls(
            id=snapshot_id,
            name=name,
            owner=environment.owner,
            origin=environment.id,
            runtime=environment.runtime,
            image=environment.image,
            resources=environment.resources,
            network=environment.network,
            directory=environment.directory,
            made_of=environment.booted_from,
            created_at=now,
            expires_at=expires_at,
            variables=environment.variables,
            packages=environment.packages,
        )

    def is_expired(self, now: datetime) -> bool:
        """Whether the reaper should remove it."""
        return now >= self.expires_at


class SnapshotShelf(Protocol):
    """Where snapshots are kept. All that it holds is whole; it survives the server."""

    def all(self) -> Sequence[Snapshot]:
        """Everyone's, oldest first."""
        ...

    async def keep(self, moment: Moment, snapshot: Snapshot) -> Snapshot:
        """Write a moment that was just taken; the snapshot, with its size. Raises OSError.

        Durable when it returns; when it fails or is cancelled, nothing is left.
        """
        ...

    def recalled(self, snapshot: Snapshot) -> AbstractAsyncContextManager[Moment]:
        """Its moment, for the length of a block. Raises MomentUnusable."""
        ...

    async def remove(self, snapshot_id: str) -> None:
        """Delete it. Idempotent; environments that came of it go on."""
        ...
