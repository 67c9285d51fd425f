# SPDX-License-Identifier: Apache-2.0
"""`waggle env pause|resume|snapshot|fork|rollback`, through the running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, cast

import anyio
from mcp import Client

from waggle.cli.client import call, connected_by, find
from waggle.cli.progress import say
from waggle.config import load
from waggle.domain.errors import InvalidArgument, NotFound

_NOTHING_ELSE: Mapping[str, object] = {}


def pause(environment: str, *, to_disk: bool) -> None:
    """Pause it, print its id, and say until when it is kept."""
    identity, paused = anyio.run(_call, "pause_environment", environment, {"to_disk": to_disk})
    until = paused.get("on_disk_until") or paused.get("expires_at")
    sys.stdout.write(f"{identity}\n")
    say(f"It is kept until {until}, and goes on when it is used.")


def resume(environment: str) -> None:
    """Have it go on, and print its id."""
    identity, _ = anyio.run(_call, "resume_environment", environment, _NOTHING_ELSE)
    sys.stdout.write(f"{identity}\n")


def snapshot(environment: str, name: str | None, *, as_json: bool) -> None:
    """Take a snapshot, and print its id, or all of it as JSON."""
    more: dict[str, object] = {} if name is None else {"name": name}
    identity, taken = anyio.run(_call, "snapshot_environment", environment, more)
    if as_json:
        told = {**taken, "environment_id": identity}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    sys.stdout.write(f"{taken['snapshot_id']}\n")
    say(f"{taken['name']} is kept until {taken['expires_at']}.")


def fork(environment: str, count: int, *, as_json: bool) -> None:
    """Make copies, and print their ids, or all of them as a JSON list."""
    _, made = anyio.run(_call, "fork_environment", environment, {"count": count})
    rows = cast("list[dict[str, Any]]", made["environments"])
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        sys.stdout.write(f"{row['environment_id']}\n")


def rollback(environment: str, snapshot: str) -> None:
    """Take it back, and print its id."""
    sys.stdout.write(f"{anyio.run(_rollback, environment, snapshot)}\n")


async def _call(
    tool: str, environment: str, more: Mapping[str, object]
) -> tuple[str, dict[str, Any]]:
    """The environment's id, and the result."""
    async with connected_by(load()) as client:
        identity = str((await find(client, environment))["environment_id"])
        return identity, await call(client, tool, environment_id=identity, **more)


async def _rollback(environment: str, snapshot: str) -> str:
    async with connected_by(load()) as client:
        identity = str((await find(client, environment))["environment_id"])
        kept = await _find_snapshot(client, snapshot, identity)
        await call(client, "rollback_environment", environment_id=identity, snapshot_id=kept)
        return identity


async def _find_snapshot(client: Client, wanted: str, environment_id: str) -> str:
    """The id of the environment's snapshot with this id, beginning of id, or name."""
    listed = await call(client, "list_snapshots")
    rows = cast("list[dict[str, Any]]", listed.get("snapshots", []))
    exact = [row for row in rows if wanted in (row["snapshot_id"], row["name"])]
    found = exact or [row for row in rows if str(row["snapshot_id"]).startswith(wanted)]
    own = [row for row in found if row["environment_id"] == environment_id]
    if not own:
        raise NotFound(
            f"The environment has no snapshot {wanted!r}.",
            hint="'waggle snapshot ls' shows what there is, on the server's machine.",
        )
    if len(own) > 1:
        raise InvalidArgument(f"{wanted!r} names {len(own)} snapshots.", hint="Use the id.")
    return str(own[0]["snapshot_id"])
