# SPDX-License-Identifier: Apache-2.0
"""What the tools for pauses, snapshots, forks and rollbacks return, as models.

As in `waggle.mcp.results`: times are RFC 3339 in UTC, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from waggle.domain.environment import Environment
from waggle.domain.snapshot import Snapshot
from waggle.mcp.results import (
    ON_DISK,
    STATUSES,
    CreatedEnvironment,
    created,
    on_disk_until,
    readable,
    rfc3339,
)

MOST_LISTED = 200
"""Snapshots in one list, each less than 2 KB: the budget of a result allows no more."""


class PausedEnvironment(BaseModel):
    """An environment that was paused or resumed."""

    environment_id: str
    status: str = Field(description=STATUSES)
    on_disk_until: str | None = Field(description=ON_DISK)
    expires_at: str = Field(description="RFC 3339; when its time is over if nothing uses it.")


class SnapshotItem(BaseModel):
    """A snapshot."""

    snapshot_id: str = Field(description="UUID; create_environment takes it as snapshot.")
    name: str
    environment_id: str = Field(description="The environment that it was taken of.")
    runtime: str
    image: str
    network: str = Field(description="none or public; what a copy has unless it asks otherwise.")
    memory_bytes: int = Field(description="Memory that a copy may use.")
    size_bytes: int = Field(description="What it takes on the server's disk.")
    created_at: str = Field(description="RFC 3339.")
    expires_at: str = Field(description="RFC 3339; when it is deleted by itself.")


class SnapshotList(BaseModel):
    """The caller's snapshots, newest first."""

    snapshots: list[SnapshotItem] = Field(description=f"At most {MOST_LISTED}.")
    count: int = Field(description="All there are.")


class DeletedSnapshot(BaseModel):
    """The end of a snapshot."""

    snapshot_id: str
    name: str


class ForkedEnvironments(BaseModel):
    """New, running environments that went on from one moment of another."""

    origin: str = Field(description="The environment_id of the one that was forked; it goes on.")
    environments: list[CreatedEnvironment]
    count: int


class RolledBackEnvironment(BaseModel):
    """An environment that went on from an earlier moment of its own."""

    environment_id: str
    snapshot_id: str
    status: str = Field(description=STATUSES)


def paused(environment: Environment) -> PausedEnvironment:
    """What pause_environment and resume_environment answer."""
    return PausedEnvironment(
        environment_id=environment.id,
        status=environment.state,
        on_disk_until=on_disk_until(environment),
        expires_at=rfc3339(environment.expires_at()),
    )


def snapshot_item(snapshot: Snapshot) -> SnapshotItem:
    """One snapshot, as its owner may know it."""
    return SnapshotItem(
        snapshot_id=snapshot.id,
        name=snapshot.name,
        environment_id=snapshot.origin,
        runtime=snapshot.runtime,
        image=readable(snapshot.image),
        network=snapshot.network,
        memory_bytes=snapshot.resources.memory_mib << 20,
        size_bytes=snapshot.size,
        created_at=rfc3339(snapshot.created_at),
        expires_at=rfc3339(snapshot.expires_at),
    )


def snapshot_list(snapshots: Sequence[Snapshot]) -> SnapshotList:
    """What list_snapshots answers; `snapshots` are oldest first."""
    newest = [*reversed(snapshots)][:MOST_LISTED]
    return SnapshotList(snapshots=[snapshot_item(each) for each in newest], count=len(snapshots))


def forked(origin: str, copies: Sequence[Environment]) -> ForkedEnvironments:
    """What fork_environment answers."""
    return ForkedEnvironments(
        origin=origin, environments=[created(each) for each in copies], count=len(copies)
    )
