# SPDX-License-Identifier: Apache-2.0
"""Result models of the tools for pauses, snapshots, forks and rollbacks. Pure.

Called by `waggle.mcp.tools`. As in `waggle.mcp.results.environments`, a field with its default
value is left out of a result; times are RFC 3339 in UTC, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from waggle.domain.environment import Environment
from waggle.domain.snapshot import Snapshot
from waggle.mcp.results import NOTE, rfc3339
from waggle.mcp.results.environments import NETWORK, ON_DISK, PUBLIC, STATUSES, on_disk_until

MOST_LISTED = 200
"""The most snapshots in one list; one takes less than 500 bytes."""


class PausedEnvironment(BaseModel):
    """An environment that was paused or resumed."""

    name: str
    status: str = Field(description=STATUSES)
    on_disk_until: str = Field(default="", description=ON_DISK)
    expires_at: str = Field(
        default="",
        description="RFC 3339; when its time is over if nothing uses it, unless on the disk.",
    )
    note: str = Field(default="", description=NOTE)


class TakenSnapshot(BaseModel):
    """A new snapshot."""

    snapshot_id: str = Field(description="UUID; create_environment takes it as snapshot.")
    name: str
    size_bytes: int = Field(description="What it takes on the server's disk.")
    expires_at: str = Field(description="RFC 3339; when it is deleted by itself.")


class SnapshotItem(TakenSnapshot):
    """A snapshot in a list."""

    environment_id: str = Field(description="The environment that it was taken of.")
    runtime: str
    network: str = Field(default=PUBLIC, description=NETWORK)
    created_at: str = Field(description="RFC 3339.")


class SnapshotList(BaseModel):
    """The caller's snapshots, newest first."""

    snapshots: list[SnapshotItem] = Field(
        default_factory=list[SnapshotItem], description=f"At most {MOST_LISTED}."
    )
    count: int = Field(default=0, description="All there are.")
    note: str = Field(default="", description=NOTE)


class DeletedSnapshot(BaseModel):
    """The end of a snapshot."""

    name: str


class ForkedEnvironment(BaseModel):
    """A copy that is running; all but these is as of the environment that was forked."""

    environment_id: str
    name: str


class ForkedEnvironments(BaseModel):
    """New, running environments that went on from one moment of another, which goes on itself."""

    environments: list[ForkedEnvironment]


class RolledBackEnvironment(BaseModel):
    """An environment that went on from an earlier moment of its own."""

    name: str
    status: str = Field(description=STATUSES)


def paused(environment: Environment) -> PausedEnvironment:
    """Return the result of pause_environment and resume_environment."""
    until = on_disk_until(environment)
    return PausedEnvironment(
        name=environment.name,
        status=environment.state.value,
        on_disk_until=until,
        expires_at="" if until else rfc3339(environment.expires_at()),
    )


def taken_snapshot(snapshot: Snapshot) -> TakenSnapshot:
    """Return the result of snapshot_environment."""
    return TakenSnapshot(
        snapshot_id=snapshot.id,
        name=snapshot.name,
        size_bytes=snapshot.size,
        expires_at=rfc3339(snapshot.expires_at),
    )


def snapshot_item(snapshot: Snapshot) -> SnapshotItem:
    """Return one snapshot, as its owner may see it."""
    return SnapshotItem(
        **taken_snapshot(snapshot).model_dump(),
        environment_id=snapshot.origin,
        runtime=snapshot.runtime.value,
        network=snapshot.network.value,
        created_at=rfc3339(snapshot.created_at),
    )


def snapshot_list(snapshots: Sequence[Snapshot]) -> SnapshotList:
    """Return the result of list_snapshots; `snapshots` are oldest first."""
    newest = [*reversed(snapshots)][:MOST_LISTED]
    more = len(snapshots) - len(newest)
    note = f"{more} older ones are not listed." if more else ""
    return SnapshotList(
        snapshots=[snapshot_item(each) for each in newest],
        count=len(snapshots),
        note=note if snapshots else "There is no snapshot. snapshot_environment makes one.",
    )


def forked(copies: Sequence[Environment]) -> ForkedEnvironments:
    """Return the result of fork_environment."""
    return ForkedEnvironments(
        environments=[ForkedEnvironment(environment_id=one.id, name=one.name) for one in copies]
    )
