# SPDX-License-Identifier: Apache-2.0
"""The tools that take, list and delete snapshots, fork and roll back, and pause and resume."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from waggle.domain.access import Owner
from waggle.domain.environment import Environment
from waggle.domain.errors import WaggleError
from waggle.domain.programs.job import parse_wait
from waggle.mcp.context import Ctx, Services, apart, current_owner, reporter, with_heartbeat
from waggle.mcp.observed import IdempotencyKey
from waggle.mcp.results import Reply, success
from waggle.mcp.results.environments import (
    PUBLIC,
    DeletedSnapshot,
    KeptFork,
    PausedEnvironment,
    RolledBackEnvironment,
    SnapshotItem,
    SnapshotList,
    TakenSnapshot,
    forked,
    paused,
    snapshot_list,
    taken_snapshot,
)
from waggle.mcp.results.ways import TriedForks, tried
from waggle.mcp.schema import STRINGS
from waggle.mcp.schema.parameters import EnvironmentId, Seconds, Wait, searchable
from waggle.mcp.schema.tool import CHANGES, DESTROYS, READS, SETTLES, OfferedTool, make_tool
from waggle.service.environments.keeping import Keeper
from waggle.service.environments.snapshots import MAX_FORKS
from waggle.service.programs.surroundings import Surroundings
from waggle.service.programs.ways import Ways, pieces

_SnapshotId = Annotated[str, Field()]
_Name = Annotated[str | None, Field()]
_Of = Annotated[str | None, Field(description="Only those of this environment.")]
_Count = Annotated[
    int | None, Field(description=f"1 to {MAX_FORKS}. Default: one for each piece of code.")
]
_Codes = Annotated[
    str | list[str] | None,
    Field(
        description="Code to run in the copies: a piece for each, or one for all.",
        json_schema_extra=STRINGS,
    ),
]
_ForkContext = Annotated[
    str | None, Field(description="As of execute. Default: the only one that it has.")
]
_ToDisk = Annotated[
    bool, Field(description="Free its memory, too; it survives a restart of the server.")
]


class SnapshotTools:
    """snapshot_, fork_, rollback_, pause_, resume_environment, list_snapshots, delete_snapshot."""

    def __init__(self, services: Services) -> None:
        self._snapshots = services.snapshots
        self._environments = services.environments
        self._services = services
        self._ways = Ways(services.environments, services.snapshots)
        self._keeper = Keeper(services.environments)

    async def snapshot_environment(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        name: _Name = None,
        idempotency_key: IdempotencyKey = None,  # used by `observed.once`
    ) -> Annotated[Reply, TakenSnapshot]:
        """Take a snapshot."""
        taken = await self._snapshots.take(
            environment_id, owner=current_owner(ctx), name=name or None, progress=reporter(ctx)
        )
        result = taken_snapshot(taken)
        return success(
            result,
            f"Snapshot {result.snapshot_id} ({result.name}) is kept until {result.expires_at}; it "
            f"takes {_size(result.size_bytes)}. The environment continues.",
        )

    async def list_snapshots(
        self, ctx: Ctx, *, environment_id: _Of = None
    ) -> Annotated[Reply, SnapshotList]:
        """List the caller's snapshots."""
        listed = self._snapshots.list(owner=current_owner(ctx))
        wanted = environment_id and self._origin(environment_id, current_owner(ctx))
        result = snapshot_list([item for item in listed if item.origin.startswith(wanted or "")])
        return success(result, "\n".join(map(_line, result.snapshots)))

    def _origin(self, environment_id: str, owner: Owner) -> str:
        """Return the id of an environment; if it is gone, the text, which may begin its id."""
        try:
            return self._environments.get(environment_id, owner=owner).id
        except WaggleError:
            return environment_id.strip().lower()

    async def delete_snapshot(
        self, ctx: Ctx, *, snapshot_id: _SnapshotId
    ) -> Annotated[Reply, DeletedSnapshot]:
        """Delete a snapshot."""
        gone = await self._snapshots.delete(snapshot_id, owner=current_owner(ctx))
        result = DeletedSnapshot(name=gone.name)
        return success(result, f"Snapshot {gone.name} is deleted. Environments of it stay.")

    async def fork_environment(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        count: _Count = None,
        code: _Codes = None,
        context: _ForkContext = None,
        timeout_seconds: Seconds = None,
        wait_seconds: Wait = None,
        idempotency_key: IdempotencyKey = None,  # used by `observed.once`
    ) -> Annotated[Reply, TriedForks]:
        """Copy a running environment, and run code in the copies."""
        owner = current_owner(ctx)
        environment = self._environments.get(environment_id, owner=owner)
        origin = environment.id
        if code:
            codes, how = pieces(code, count), Surroundings(timeout_seconds)
            chosen = context or await self._services.jobs.only_context(origin, owner=owner)
            for piece in codes:
                self._services.execution.check(piece, environment.runtime, how, context=chosen)
            wait = parse_wait(wait_seconds, self._services.execution_limits.wait)
            run = partial(self._services.execution.execute, owner=owner, how=how, context=chosen)
            work = self._ways.attempt(
                origin, codes, run, owner=owner, seconds=wait, progress=reporter(ctx)
            )
            ways = await with_heartbeat(
                ctx, lambda: "running", self._services.heartbeat, work, since=1.0
            )
            size = sum(way.view.size for way in ways if way.view)
            return await apart(partial(tried, ways, self._services.execution_limits.output), size)
        copies = await self._snapshots.fork(
            origin, 1 if count is None else count, owner=owner, progress=reporter(ctx)
        )
        result = forked(copies)
        lines = [f"{copy.environment_id} {copy.name}" for copy in result.environments]
        head = "Running copies; the environment itself continues:"
        return success(result, "\n".join([head, *lines]))

    async def keep_fork(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[Reply, KeptFork]:
        """Put a fork in the place of its original."""
        kept = await self._keeper.keep(environment_id, owner=current_owner(ctx))
        result = KeptFork(
            environment_id=kept.environment.id,
            name=kept.environment.name,
            destroyed=[other.id for other in kept.destroyed],
            not_destroyed=[other.id for other in kept.left],
        )
        lines = [f"Environment {result.environment_id} is now {result.name}."]
        if result.destroyed:
            lines.append(f"Destroyed: {' '.join(result.destroyed)}.")
        if result.not_destroyed:
            left = " ".join(result.not_destroyed)
            lines.append(f"Not destroyed yet, which is tried again later: {left}.")
        return success(result, "\n".join(lines))

    async def rollback_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, snapshot_id: _SnapshotId
    ) -> Annotated[Reply, RolledBackEnvironment]:
        """Go back to a snapshot."""
        owner = current_owner(ctx)
        snapshot_id = self._snapshots.get(snapshot_id, owner=owner).id
        environment = await self._snapshots.roll_back(
            environment_id, snapshot_id, owner=owner, progress=reporter(ctx)
        )
        result = RolledBackEnvironment(name=environment.name, status=environment.state.value)
        return success(
            result,
            f"Environment {result.name} is {result.status}, as it was in the snapshot; later "
            "changes are lost.",
        )

    async def pause_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, to_disk: _ToDisk = False
    ) -> Annotated[Reply, PausedEnvironment]:
        """Pause an environment, in memory or to disk."""
        environment = await self._environments.pause(
            environment_id, owner=current_owner(ctx), to_disk=to_disk
        )
        result = paused(environment)
        kept = f"in memory{self._until(environment, result)}"
        if result.on_disk_until:
            kept = f"on the disk, and kept until {result.on_disk_until}"
        result.note = "Any call that uses it resumes it."
        return success(result, f"Environment {result.name} is {result.status} {kept}.")

    async def resume_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[Reply, PausedEnvironment]:
        """Resume a paused environment."""
        environment = await self._environments.resume(
            environment_id, owner=current_owner(ctx), progress=reporter(ctx)
        )
        result = paused(environment)
        end = self._until(environment, result)
        return success(result, f"Environment {result.name} is {result.status}{end}.")

    def _until(self, one: Environment, result: PausedEnvironment) -> str:
        return f", and {self._services.when_unused(one)} at {result.expires_at} if no call comes"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _line(item: SnapshotItem) -> str:
    network = "" if item.network == PUBLIC else f", network {item.network}"
    return (
        f"{item.snapshot_id} {item.name} ({item.runtime}, of {item.environment_id}{network}) "
        f"{_size(item.size_bytes)}, taken {item.created_at}, kept until {item.expires_at}"
    )


def snapshot_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = SnapshotTools(services)
    return [
        make_tool(
            tools.snapshot_environment,
            title="Take a snapshot",
            description="Keep an environment as it is now, memory and disk; it continues. Use it "
            "before a step that may go wrong: create_environment with snapshot starts from there; "
            "rollback_environment takes this one back. Background programs are kept; network "
            "connections and exposed ports are not.",
            annotations=CHANGES,
            meta=searchable("snapshot, checkpoint or save the state of a sandbox"),
        ),
        make_tool(
            tools.list_snapshots,
            title="List snapshots",
            description="List your snapshots, newest first.",
            annotations=READS,
            meta=searchable("list snapshots of sandboxes"),
        ),
        make_tool(
            tools.delete_snapshot,
            title="Delete a snapshot",
            description="Delete a snapshot. Environments made from it stay.",
            annotations=DESTROYS.model_copy(update={"idempotent_hint": False}),
            meta=searchable("delete a snapshot"),
        ),
        make_tool(
            tools.fork_environment,
            title="Fork an environment",
            description="Make copies of a running environment, with memory, files and background "
            "programs, to try several ways from one state; it continues. With code, it runs in "
            "the copies and the results come side by side; keep_fork then keeps the best. Every "
            "copy has an id of its own and is to be destroyed.",
            annotations=CHANGES,
            meta=searchable("fork, clone or copy a sandbox"),
        ),
        make_tool(
            tools.keep_fork,
            title="Keep a fork",
            description="Give a fork the name of its original, and destroy the original and the "
            "other forks of the same call.",
            annotations=DESTROYS,
            meta=searchable("keep the best fork of a sandbox, destroy the others"),
        ),
        make_tool(
            tools.rollback_environment,
            title="Roll an environment back",
            description="Take an environment back to a snapshot of itself; later changes are "
            "lost, and jobs that were started since. Refused while other calls run.",
            annotations=DESTROYS,
            meta=searchable("roll back, restore or undo in a sandbox"),
        ),
        make_tool(
            tools.pause_environment,
            title="Pause an environment",
            description="Pause an environment with its memory, files and programs; any call "
            "or visit of its ports resumes it. With to_disk, connections break. Refused while "
            "other calls run.",
            annotations=SETTLES,
            meta=searchable("pause, suspend or hibernate a sandbox"),
        ),
        make_tool(
            tools.resume_environment,
            title="Resume an environment",
            description="Resume a paused environment before a call does so.",
            annotations=SETTLES,
            meta=searchable("resume a paused sandbox"),
        ),
    ]
