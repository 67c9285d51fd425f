# SPDX-License-Identifier: Apache-2.0
"""The tools that keep moments of environments, and go on from them."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner, reporter
from waggle.mcp.repeats import IdempotencyKey
from waggle.mcp.results import success
from waggle.mcp.snapshot_results import (
    DeletedSnapshot,
    ForkedEnvironments,
    RolledBackEnvironment,
    SnapshotItem,
    SnapshotList,
    forked,
    snapshot_item,
    snapshot_list,
)
from waggle.mcp.tools.parameters import EnvironmentId
from waggle.service.snapshots import MAX_FORKS

_SnapshotId = Annotated[
    str, Field(description="UUID of the snapshot; snapshot_environment returned it.")
]
_Name = Annotated[
    str | None,
    Field(
        description="1 to 63 letters, digits, '.', '_' or '-', a letter or digit first and last; "
        "need not be unique. Default: the environment's name and the start of the id."
    ),
]
_Count = Annotated[
    int,
    Field(
        description=f"How many copies, 1 to {MAX_FORKS}; all of them or none are made.",
        json_schema_extra={"minimum": 1, "maximum": MAX_FORKS},
    ),
]
_KEPT = (
    "Memory, files, open files and background processes that detached themselves (a server or a "
    "REPL started with setsid or nohup, say) go on in it; programs that an unfinished call or job "
    "runs end in it, exposed ports are closed and network connections are broken"
)


class SnapshotTools:
    """snapshot_environment, list_snapshots, delete_snapshot, fork_, rollback_environment."""

    def __init__(self, services: Services) -> None:
        self._snapshots = services.snapshots
        self._environments = services.environments

    async def snapshot_environment(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        name: _Name = None,
        idempotency_key: IdempotencyKey = None,  # `mcp.repeats` heeds it
    ) -> Annotated[CallToolResult, SnapshotItem]:
        """Keep a moment."""
        taken = await self._snapshots.take(
            environment_id, owner=current_owner(ctx), name=name or None, progress=reporter(ctx)
        )
        result = snapshot_item(taken)
        return success(
            result,
            f"Snapshot {result.snapshot_id} ({result.name}) is kept until {result.expires_at}; it "
            f"takes {_size(result.size_bytes)}. The environment goes on.",
        )

    async def list_snapshots(self, ctx: Ctx) -> Annotated[CallToolResult, SnapshotList]:
        """List what the caller has."""
        result = snapshot_list(self._snapshots.list(owner=current_owner(ctx)))
        if not result.count:
            return success(result, "There is no snapshot. snapshot_environment makes one.")
        lines = [_line(item) for item in result.snapshots]
        if result.count > len(lines):
            lines.append(f"and {result.count - len(lines)} older ones")
        return success(result, "\n".join(lines))

    async def delete_snapshot(
        self, ctx: Ctx, *, snapshot_id: _SnapshotId
    ) -> Annotated[CallToolResult, DeletedSnapshot]:
        """Delete one."""
        gone = await self._snapshots.delete(snapshot_id, owner=current_owner(ctx))
        return success(
            DeletedSnapshot(snapshot_id=gone.id, name=gone.name),
            f"Snapshot {gone.id} ({gone.name}) is deleted. Environments made from it go on.",
        )

    async def fork_environment(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        count: _Count = 1,
        idempotency_key: IdempotencyKey = None,  # `mcp.repeats` heeds it
    ) -> Annotated[CallToolResult, ForkedEnvironments]:
        """Copy a running environment."""
        owner = current_owner(ctx)
        origin = self._environments.get(environment_id, owner=owner).id
        copies = await self._snapshots.fork(origin, count, owner=owner, progress=reporter(ctx))
        result = forked(origin, copies)
        lines = [f"{each.environment_id} {each.name}" for each in result.environments]
        return success(
            result,
            f"{result.count} copies of environment {result.origin} are running, and it goes on "
            "itself:\n" + "\n".join(lines),
        )

    async def rollback_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, snapshot_id: _SnapshotId
    ) -> Annotated[CallToolResult, RolledBackEnvironment]:
        """Go back to a moment."""
        owner = current_owner(ctx)
        snapshot_id = self._snapshots.get(snapshot_id, owner=owner).id
        environment = await self._snapshots.roll_back(
            environment_id, snapshot_id, owner=owner, progress=reporter(ctx)
        )
        result = RolledBackEnvironment(
            environment_id=environment.id,
            snapshot_id=snapshot_id,
            status=environment.state,
        )
        return success(
            result,
            f"Environment {environment.id} is as it was in snapshot {result.snapshot_id}; what "
            "came since is lost. Expose its ports again if you need them.",
        )


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _line(item: SnapshotItem) -> str:
    return (
        f"{item.snapshot_id} {item.name} ({item.runtime}, of environment {item.environment_id}) "
        f"{_size(item.size_bytes)}, taken {item.created_at}, kept until {item.expires_at}"
    )


def snapshot_tools(services: Services) -> list[Tool]:
    """The tools of this module."""
    tools = SnapshotTools(services)
    makes = ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    )
    destroys = ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
    )
    return [
        make_tool(
            tools.snapshot_environment,
            title="Take a snapshot",
            description=(
                "Keep what an environment is at this moment, memory and disk; it goes on. Use it "
                "before a step that may go wrong, or for a state to start from again: "
                "create_environment with snapshot goes on from it; rollback_environment takes this "
                f"environment back. {_KEPT}.\n"
                'Example: {"environment_id": "...", "name": "packages-installed"}'
            ),
            annotations=makes,
        ),
        make_tool(
            tools.list_snapshots,
            title="List snapshots",
            description="List your snapshots, newest first, with sizes and until when each is "
            "kept. Takes no parameters.",
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        ),
        make_tool(
            tools.delete_snapshot,
            title="Delete a snapshot",
            description=(
                "Delete a snapshot. Environments that were made from it go on. Do this when it is "
                'no longer needed: you may keep only so many.\nExample: {"snapshot_id": "..."}'
            ),
            annotations=destroys.model_copy(update={"idempotent_hint": False}),
        ),
        make_tool(
            tools.fork_environment,
            title="Fork an environment",
            description=(
                "Make copies of an environment as it is now, to try several ways from one state; "
                "it goes on itself. Each copy is an environment of its own, counts as one and is "
                f"to be destroyed. {_KEPT}.\n"
                'Example: {"environment_id": "..."} or {"environment_id": "...", "count": 3}'
            ),
            annotations=makes,
        ),
        make_tool(
            tools.rollback_environment,
            title="Roll an environment back",
            description=(
                "Take an environment back to a snapshot of itself, memory and disk, under the same "
                "environment_id. What came since is lost. Refused while calls or jobs run in it.\n"
                'Example: {"environment_id": "...", "snapshot_id": "..."}'
            ),
            annotations=destroys,
        ),
    ]
