# SPDX-License-Identifier: Apache-2.0
"""Snapshots and templates: the frozen machines that are kept on the disk. Pure.

A snapshot is an environment at one instant, kept under a name for its owner. A template is a frozen
machine that booted once; its key holds all that it depends on, and it serves only requests with
exactly that key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from waggle.domain.environment import Environment
from waggle.domain.host import FrozenMachine
from waggle.domain.machine import Resources
from waggle.domain.network import Network
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.secrets.held import NO_SECRETS, HeldSecrets


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as its owner may see it.

    `origin` is the id of the environment that it was taken of. `size` is bytes on the disk.
    Environments made from it have its hypervisor, runtime, image, resources, directory, variables.
    """

    id: str
    name: str
    owner: str
    origin: str
    runtime: RuntimeName
    image: str
    resources: Resources
    network: Network
    directory: str
    booted_from: Mapping[str, str]
    """Digests of the image, the kernel and the kit, and the fingerprint of the VMM."""
    created_at: datetime
    expires_at: datetime
    size: int = 0
    hypervisor: str = ""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    packages: tuple[str, ...] = ()
    registries: tuple[str, ...] | None = None
    secrets: HeldSecrets = NO_SECRETS

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
        """Return a snapshot of the environment as it is now."""
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
            booted_from=environment.booted_from,
            created_at=now,
            expires_at=expires_at,
            hypervisor=environment.hypervisor,
            variables=environment.variables,
            packages=environment.packages,
            registries=environment.registries,
            secrets=environment.secrets,
        )

    def is_expired(self, now: datetime) -> bool:
        """Whether the reaper should remove it."""
        return now >= self.expires_at


class SnapshotShelf(Protocol):
    """The store of snapshots. It holds complete snapshots only, and outlives the server."""

    def all(self) -> Sequence[Snapshot]:
        """Return the snapshots of all owners, oldest first."""
        ...

    async def keep(self, frozen_machine: FrozenMachine, snapshot: Snapshot) -> Snapshot:
        """Write a machine that was just frozen; return the snapshot, with its size. Raises OSError.

        Durable when it returns; when it fails or is cancelled, nothing is left.
        """
        ...

    def opened(self, snapshot: Snapshot) -> AbstractAsyncContextManager[FrozenMachine]:
        """Give its frozen machine for the length of a block. Raises FrozenMachineUnusable."""
        ...

    async def remove(self, snapshot_id: str) -> None:
        """Delete the snapshot. Idempotent; environments made from it continue."""
        ...


_ID_LENGTH = 24


@dataclass(frozen=True, slots=True)
class TemplateKey:
    """Everything that a frozen machine depends on, by name."""

    parts: Mapping[str, str]

    @classmethod
    def of(
        cls,
        *,
        image: str,
        kernel: str,
        kit: str,
        resources: Resources,
        certificates: bytes,
        warmed: tuple[str, ...],
        vmm: Mapping[str, str],
        owner: str | None = None,
    ) -> TemplateKey:
        """Make a key. `image` is a digest, `warmed` what was run before, `vmm` a fingerprint.

        Only machines of `owner` may resume from the template; with None, those of every owner may.
        """
        return cls(
            {
                "image": image,
                "kernel": kernel,
                "kit": kit,
                "cpus": str(resources.cpus),
                "memory_mib": str(resources.memory_mib),
                "disk_mib": str(resources.disk_mib),
                "certificates": hashlib.sha256(certificates).hexdigest()[:16],
                "warmed": json.dumps(warmed),
                **vmm,
                **({} if owner is None else {"owner": owner}),
            }
        )

    @property
    def id(self) -> str:
        """A short digest of all parts; usable as a file name."""
        text = json.dumps(dict(self.parts), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]

    def differences(self, other: TemplateKey) -> list[str]:
        """Return the names of the parts that differ, in order."""
        names = {**self.parts, **other.parts}
        return [name for name in names if self.parts.get(name) != other.parts.get(name)]


@dataclass(frozen=True, slots=True)
class Template:
    """A template on the disk, where it takes `size` bytes."""

    key: TemplateKey
    directory: Path
    created_at: datetime
    used_at: datetime
    size: int
