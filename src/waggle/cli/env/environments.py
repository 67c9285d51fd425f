# SPDX-License-Identifier: Apache-2.0
"""`waggle env new|ls|rm|restart|pause|resume|snapshot|fork|rollback` and `waggle port`.

All of them are calls of the running server's tools.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, cast

import anyio
from mcp import Client

from waggle.cli.client import call, call_reporting, connected_by, find
from waggle.cli.durations import parse_option
from waggle.cli.ids import matching
from waggle.cli.progress import interruptible, print_json, print_table, say, working
from waggle.config import load
from waggle.domain.environment import MAX_GRACE
from waggle.domain.errors import InvalidArgument, NotFound, WaggleError
from waggle.domain.link import DEFAULT_MINUTES, MAX_MINUTES, MIN_MINUTES

_TABLE_WIDTH = 150
_WAIT = 10.0
"""Seconds for a server in the environment that was just started to listen."""
_COLUMNS = ("environment_id", "name", "runtime", "status", "created_at")
_NONE = "No environments. 'waggle env new' makes one."


def new(arguments: Mapping[str, object], *, as_json: bool) -> None:
    """Create an environment with create_environment's arguments, and print its id or JSON."""
    made = anyio.run(_new, arguments)
    if as_json:
        print_json(made)
    else:
        sys.stdout.write(f"{made['environment_id']}\n")


async def _new(arguments: Mapping[str, object]) -> dict[str, Any]:
    async with connected_by(load()) as client:
        with working("Creating an environment") as report:
            create = partial(call_reporting, client, report, "create_environment", **arguments)
            return await interruptible(create)


def ls(*, as_json: bool) -> None:
    """Print the environments as a table, or as a JSON list."""
    rows = anyio.run(_list)
    if as_json:
        print_json(rows)
        return
    cells = [[str(row[column]) for column in _COLUMNS] for row in rows]
    print_table(_COLUMNS, cells, _NONE, _TABLE_WIDTH)


async def _list() -> list[dict[str, Any]]:
    async with connected_by(load()) as client:
        listed = await call(client, "list_environments")
        return cast("list[dict[str, Any]]", listed.get("environments", []))


def rm(environments: Sequence[str], grace: str | None = None) -> None:
    """Destroy environments and print their ids, then raise the last failure, if any.

    A failure does not prevent the destruction of the others. Programs get a SIGTERM and `grace`.
    """
    more = {} if grace is None else {"grace_seconds": _seconds(grace)}
    if not environments:
        raise InvalidArgument("No environment was named.", hint="See 'waggle env ls'.")
    failures = anyio.run(_remove, environments, more)
    for failure in failures[:-1]:
        say(f"{failure.message} {failure.hint}".rstrip())
    if failures:
        raise failures[-1]


def _seconds(text: str) -> int:
    """Return a duration in seconds. Raises InvalidArgument."""
    most = timedelta(seconds=MAX_GRACE)
    return round(parse_option("--grace", text, timedelta(0), most).total_seconds())


async def _remove(environments: Sequence[str], more: Mapping[str, object]) -> list[WaggleError]:
    failures: list[WaggleError] = []
    async with connected_by(load()) as client:
        for wanted in environments:
            try:
                row = await find(client, wanted)
                chosen = row["environment_id"]
                await call(client, "destroy_environment", environment_id=chosen, **more)
            except WaggleError as error:
                failures.append(error)
            else:
                sys.stdout.write(f"{row['environment_id']}\n")
    return failures


def expose(environment: str, port: int, *, share: bool = False, expires: str | None = None) -> None:
    """Expose a port and print its URL, or with `share` or `expires` that of a new link.

    If nothing listens there yet, report that and wait.
    """
    link = {"link_minutes": _minutes(expires)} if share or expires is not None else {}
    opened = anyio.run(_expose, environment, port, link)
    if not opened.get("listening"):
        say(f"Nothing listens on port {port} yet; the URL works as soon as something does.")
    sys.stdout.write(f"{opened['public_url'] if link else opened['url']}\n")
    if link:
        say(f"Whoever has this link may use the port until {opened['public_until']}.")


def _minutes(text: str | None) -> float:
    """Return a duration in minutes, an hour if there is none. Raises InvalidArgument."""
    if text is None:
        return DEFAULT_MINUTES
    least, most = timedelta(minutes=MIN_MINUTES), timedelta(minutes=MAX_MINUTES)
    return parse_option("--expires", text, least, most).total_seconds() / 60


async def _expose(environment: str, port: int, link: Mapping[str, object]) -> dict[str, Any]:
    async with connected_by(load()) as client:
        environment_id = (await find(client, environment))["environment_id"]
        open_port = partial(call, client, "expose_port", environment_id=environment_id, port=port)
        opened = await open_port(wait_seconds=0, **link)
        if opened.get("listening"):
            return opened
        say(f"Nothing listens on port {port} yet: waiting {_WAIT:g} s for it ...")
        return await open_port(wait_seconds=_WAIT, **link)


def pause(environment: str, *, to_disk: bool) -> None:
    """Pause the environment, print its id, and report until when it is kept."""
    environment_id, paused = anyio.run(
        _call, "pause_environment", environment, {"to_disk": to_disk}
    )
    until = paused.get("on_disk_until") or paused.get("expires_at")
    sys.stdout.write(f"{environment_id}\n")
    say(f"It is kept until {until}, and resumes when it is used.")


def resume(environment: str) -> None:
    """Resume the environment, and print its id."""
    environment_id, _ = anyio.run(_call, "resume_environment", environment, None)
    sys.stdout.write(f"{environment_id}\n")


def restart(environment: str, *, force: bool, as_json: bool) -> None:
    """Restart the environment, and print its id, or the whole result as JSON."""
    more = {"force": True} if force else None
    environment_id, done = anyio.run(_call, "restart_environment", environment, more)
    if as_json:
        print_json({**done, "environment_id": environment_id})
        return
    sys.stdout.write(f"{environment_id}\n")
    if gone := cast("list[str]", done.get("gone", [])):
        say(f"Gone: {', '.join(gone)}.")
    if note := done.get("note"):
        say(str(note))


def snapshot(environment: str, name: str | None, *, as_json: bool) -> None:
    """Take a snapshot, and print its id, or the whole result as JSON."""
    more = None if name is None else {"name": name}
    environment_id, taken = anyio.run(_call, "snapshot_environment", environment, more)
    if as_json:
        print_json({**taken, "environment_id": environment_id})
        return
    sys.stdout.write(f"{taken['snapshot_id']}\n")
    say(f"{taken['name']} is kept until {taken['expires_at']}.")


def fork(environment: str, count: int, *, as_json: bool) -> None:
    """Fork the environment, and print the ids of the copies, or a JSON list."""
    _, made = anyio.run(_call, "fork_environment", environment, {"count": count})
    rows = cast("list[dict[str, Any]]", made["environments"])
    if as_json:
        print_json(rows)
        return
    for row in rows:
        sys.stdout.write(f"{row['environment_id']}\n")


def rollback(environment: str, snapshot: str) -> None:
    """Roll the environment back to a snapshot, and print its id."""
    sys.stdout.write(f"{anyio.run(_rollback, environment, snapshot)}\n")


async def _call(
    tool: str, environment: str, more: Mapping[str, object] | None
) -> tuple[str, dict[str, Any]]:
    """Call a tool on an environment. Return the environment's id and the result."""
    async with connected_by(load()) as client:
        environment_id = str((await find(client, environment))["environment_id"])
        return environment_id, await call(
            client, tool, environment_id=environment_id, **(more or {})
        )


async def _rollback(environment: str, snapshot: str) -> str:
    async with connected_by(load()) as client:
        environment_id = str((await find(client, environment))["environment_id"])
        kept = await _find_snapshot(client, snapshot, environment_id)
        await call(client, "rollback_environment", environment_id=environment_id, snapshot_id=kept)
        return environment_id


async def _find_snapshot(client: Client, wanted: str, environment_id: str) -> str:
    """Return the id of the environment's snapshot with this id, beginning of id, or name.

    Raises NotFound, and InvalidArgument if there are several.
    """
    listed = await call(client, "list_snapshots")
    found = matching(listed.get("snapshots", []), "snapshot_id", wanted)
    own = [row for row in found if row["environment_id"] == environment_id]
    if not own:
        raise NotFound(
            f"The environment has no snapshot {wanted!r}.",
            hint="'waggle snapshot ls' lists them, on the server's machine.",
        )
    if len(own) > 1:
        raise InvalidArgument(f"{wanted!r} names {len(own)} snapshots.", hint="Use the id.")
    return str(own[0]["snapshot_id"])
