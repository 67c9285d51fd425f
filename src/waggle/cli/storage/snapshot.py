# SPDX-License-Identifier: Apache-2.0
"""`waggle snapshot ls|rm|export|import`: on files alone. A running server notices the changes."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from waggle.app.hypervisors import hypervisors
from waggle.app.machines import machinery
from waggle.app.process import configure_logging
from waggle.app.values import certificates
from waggle.cli import ids
from waggle.cli.progress import print_json, print_table, say, working
from waggle.cli.storage.image import iso
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.access import LOCAL, parse_owner
from waggle.domain.errors import InvalidArgument, SetupIncomplete
from waggle.infra.shared.disk_room import full, is_full
from waggle.infra.shared.files import remove_directory
from waggle.service.local.frozen.snapshots import bring as bring_in
from waggle.service.local.frozen.snapshots import read_snapshots, write_new

_TABLE_WIDTH = 150
_COLUMNS = ("id", "name", "owner", "runtime", "size", "created (UTC)", "expires (UTC)")
_NOTHING = "No snapshots. 'waggle env snapshot' and the tool snapshot_environment take them."


def ls(*, as_json: bool) -> None:
    """Print the snapshots as a table, or as a JSON list; oldest first."""
    rows = [
        {
            "id": kept.id,
            "name": kept.name,
            "owner": kept.owner,
            "environment": kept.origin,
            "runtime": kept.runtime.value,
            "image": kept.image,
            "bytes": kept.size,
            "created": iso(kept.created_at.timestamp()),
            "expires": iso(kept.expires_at.timestamp()),
        }
        for kept in read_snapshots(_directory())
    ]
    if as_json:
        print_json(rows)
        return
    cells = [
        (
            *(str(row[name]) for name in _COLUMNS[:4]),
            f"{int(row['bytes']) / 1e6:.1f} MB",
            str(row["created"])[:16],
            str(row["expires"])[:16],
        )
        for row in rows
    ]
    print_table(_COLUMNS, cells, _NOTHING, _TABLE_WIDTH)


def _directory() -> Path:
    """Return the directory of snapshots. Sets up logging, so that unusable ones are reported."""
    settings = load()
    configure_logging(settings.log_level, settings.log_format)
    return Places.of(settings).snapshots


def rm(wanted: Sequence[str]) -> None:
    """Remove snapshots by the ids that `ls` shows, all or none, and print the ids."""
    directory = _directory()
    ids.require("snapshot", wanted, _known(directory))
    for snapshot_id in wanted:
        try:
            remove_directory(directory / snapshot_id)
        except OSError as error:
            raise SetupIncomplete(
                f"Snapshot {snapshot_id} cannot be removed: {error.strerror}.",
                hint="Run this as the user of the server.",
            ) from error
        sys.stdout.write(f"{snapshot_id}\n")


def _known(directory: Path) -> set[str]:
    return {snapshot.id for snapshot in read_snapshots(directory)}


def export(snapshot_id: str, file: Path) -> None:
    """Write a snapshot to a new file. Raises NotFound, FrozenMachineUnusable and others."""
    directory = Places.of(load()).snapshots
    ids.require("snapshot", [snapshot_id], _known(directory))
    with _storage_errors(file, file.absolute().parent), working(f"Exporting {snapshot_id}"):
        size = write_new(file, directory / snapshot_id)
    say(f"{file}: {size / 1e6:.1f} MB. It holds what was in the memory, secrets included.")


def bring(file: Path, owner: str | None, *, as_json: bool) -> None:
    """Import a snapshot, and print its new id. Raises FrozenMachineUnusable and others."""
    settings = load()
    whose = LOCAL if owner is None else parse_owner(owner)
    with contextlib.ExitStack() as stack:
        made = machinery(settings, hypervisors(settings).running, certificates(settings), stack)
        shelf = Places.of(settings).snapshots
        stack.enter_context(_storage_errors(file, shelf))
        source = stack.enter_context(file.open("rb"))
        stack.enter_context(working(f"Importing {file.name}"))
        kept = bring_in(
            source,
            shelf,
            lambda name: made.of(name).freezing,
            snapshot_id=str(uuid.uuid4()),
            owner=whose,
            expires_at=datetime.now(UTC) + settings.snapshot_keep,
        )
    if as_json:
        print_json({"id": kept.id, "name": kept.name, "owner": kept.owner, "bytes": kept.size})
        return
    sys.stdout.write(f"{kept.id}\n")
    say(f"{kept.name} is {kept.owner}'s until {kept.expires_at:%Y-%m-%d %H:%M} UTC.")


@contextlib.contextmanager
def _storage_errors(file: Path, where: Path) -> Generator[None]:
    """Turn OSErrors into errors to show. `where` is the directory being written to."""
    try:
        yield
    except FileExistsError as error:
        raise InvalidArgument(f"{file} exists already.", hint="Name a new file.") from error
    except OSError as error:
        if is_full(error):
            raise full(error, str(where)) from error
        raise SetupIncomplete(
            f"{error.filename or file}: {error.strerror or error}.",
            hint="Check the free space; run this as the user of the server.",
        ) from error
