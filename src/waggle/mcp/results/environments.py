# SPDX-License-Identifier: Apache-2.0
"""Result models of the tools for environments, pauses, snapshots, forks and rollbacks. Pure.

Called by `waggle.mcp.tools`, `resources.read` and the other modules of this package.
`results.state` has the models of one environment's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from waggle.domain.environment import Environment
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.network.registries import UNANSWERED
from waggle.domain.programs import HOME
from waggle.domain.snapshot import Snapshot
from waggle.mcp.results import NOTE, readable, rfc3339
from waggle.mcp.schema import in_words

PUBLIC = str(PUBLIC_NETWORK)
UNUSED = "Unused for so long, e.g. 30m, it is paused to disk or destroyed, as the server is set."
STATUSES = "creating, running, paused, resuming, destroying or error."
NETWORK = "public unless given."
NOTICE = "A fact about it now, e.g. why it is paused in memory and not to disk."
ON_DISK = "RFC 3339; how long it is kept while it is paused to disk."


class EnvironmentSummary(BaseModel):
    """An environment in a list."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str = Field(description="For people; need not be unique.")
    runtime: str = Field(description="python, node, shell or data.")
    status: str = Field(description=STATUSES)
    network: str = Field(default=PUBLIC, description=NETWORK)
    created_at: str = Field(description="RFC 3339.")
    error: str = Field(default="", description="Why it is in the error status.")
    on_disk_until: str = Field(default="", description=ON_DISK)
    notice: str = Field(default="", description=NOTICE)


class CreatedEnvironment(BaseModel):
    """A new, running environment."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str
    runtime: str
    status: str
    network: str = Field(default=PUBLIC, description=NETWORK)
    working_directory: str = Field(
        default=HOME, description=f"Where programs start; {HOME} unless given."
    )
    timeout: str = Field(description=UNUSED)
    installed: list[str] = Field(default_factory=list[str], description="Its packages.")
    secrets: list[str] = Field(
        default_factory=list[str],
        description="Variables with a secret's placeholder, and the hosts that get its value.",
    )
    notice: str = Field(default="", description="What is not as asked for.")


class EnvironmentList(BaseModel):
    """All environments of the caller, oldest first."""

    environments: list[
        Annotated[EnvironmentSummary, WithJsonSchema(in_words(EnvironmentSummary))]
    ] = Field(default_factory=list[EnvironmentSummary])
    count: int = 0
    note: str = Field(default="", description=NOTE)


class DestroyedEnvironment(BaseModel):
    """The end of an environment."""

    name: str
    status: str


def on_disk_until(environment: Environment) -> str:
    """Return the time until which an environment is kept on disk; empty unless paused to disk."""
    return "" if environment.paused_until is None else rfc3339(environment.paused_until)


def summary(environment: Environment) -> dict[str, Any]:
    """Return one item of list_environments: the same as `fields_of` an EnvironmentSummary."""
    line: dict[str, Any] = {
        "environment_id": environment.id,
        "name": environment.name,
        "runtime": str(environment.runtime),
        "status": str(environment.state),
        "created_at": rfc3339(environment.created_at),
    }
    if environment.network != PUBLIC_NETWORK:
        line["network"] = str(environment.network)
    if environment.error:
        line["error"] = environment.error
    if environment.paused_until is not None:
        line["on_disk_until"] = rfc3339(environment.paused_until)
    if environment.notice is not None:
        line["notice"] = environment.notice
    return line


def created(environment: Environment, installed: Sequence[str] = ()) -> CreatedEnvironment:
    """Return the result of create_environment."""
    return CreatedEnvironment(
        environment_id=environment.id,
        name=environment.name,
        runtime=environment.runtime.value,
        status=environment.state.value,
        network=str(environment.network),
        working_directory=readable(environment.directory),
        timeout=f"{int(environment.idle_timeout.total_seconds()) // 60}m",
        installed=list(installed),
        secrets=_secrets(environment),
        notice=_LATE if UNANSWERED in (environment.registries or ()) else "",
    )


_LATE = (
    "A package manager or its registry did not answer, so @packages is not whole: set_network with "
    'allow ["@packages"] asks again.'
)


def _secrets(environment: Environment) -> list[str]:
    held = environment.secrets.hosts_of(environment.variables)
    return [f"{name} for {', '.join(hosts)}" if hosts else name for name, hosts in held.items()]


MOST_LISTED = 200
"""The most snapshots in one list; one takes less than 500 bytes."""


class PausedEnvironment(BaseModel):
    """An environment that was paused or resumed."""

    name: str
    status: str = Field(description=STATUSES)
    on_disk_until: str = Field(default="", description=ON_DISK)
    expires_at: str = Field(
        default="",
        description="RFC 3339; when its time ends if nothing uses it, unless it is on disk.",
    )
    note: str = Field(default="", description=NOTE)


class TakenSnapshot(BaseModel):
    """A new snapshot."""

    snapshot_id: str = Field(description="UUID; create_environment takes it as snapshot.")
    name: str
    size_bytes: int = Field(description="Its size on the server's disk.")
    expires_at: str = Field(description="RFC 3339; when the server deletes it.")


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
    """A running copy; the other fields are as those of the original."""

    environment_id: str
    name: str


class ForkedEnvironments(BaseModel):
    """New, running environments that resumed from another, which continues itself."""

    environments: list[ForkedEnvironment]
    note: str = Field(default="", description=NOTE)


class KeptFork(BaseModel):
    """A fork that is in the place of its original."""

    environment_id: str
    name: str
    destroyed: list[str] = Field(
        default_factory=list[str], description="Ids of the original and the other forks."
    )
    not_destroyed: list[str] = Field(
        default_factory=list[str], description="Those that could not be destroyed yet."
    )


class RolledBackEnvironment(BaseModel):
    """An environment that resumed from a snapshot of its own."""

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


def _snapshot_item(snapshot: Snapshot) -> SnapshotItem:
    return SnapshotItem(
        **taken_snapshot(snapshot).model_dump(),
        environment_id=snapshot.origin,
        runtime=snapshot.runtime.value,
        network=str(snapshot.network),
        created_at=rfc3339(snapshot.created_at),
    )


def snapshot_list(snapshots: Sequence[Snapshot]) -> SnapshotList:
    """Return the result of list_snapshots; `snapshots` are oldest first."""
    newest = [*reversed(snapshots)][:MOST_LISTED]
    more = len(snapshots) - len(newest)
    note = f"{more} older ones are not listed." if more else ""
    return SnapshotList(
        snapshots=[_snapshot_item(snapshot) for snapshot in newest],
        count=len(snapshots),
        note=note if snapshots else "There is no snapshot. snapshot_environment makes one.",
    )


def forked(copies: Sequence[Environment]) -> ForkedEnvironments:
    """Return the result of fork_environment."""
    return ForkedEnvironments(
        environments=[ForkedEnvironment(environment_id=copy.id, name=copy.name) for copy in copies]
    )
