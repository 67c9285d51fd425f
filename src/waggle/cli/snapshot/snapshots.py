# SPDX-License-Identifier: Apache-2.0
"""`waggle snapshot ls` and `rm`: files only; a running server notices."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from waggle.app.logs import configure_logging
from waggle.cli.image.images import iso
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.errors import InvalidArgument, NotFound, SetupIncomplete
from waggle.infra.shared.files import remove_directory
from waggle.service.local.frozen.snapshots import read_snapshots

_TABLE_WIDTH = 150
_NOTHING = "No snapshots. 'waggle env snapshot' and the tool snapshot_environment take them."


def ls(*, as_json: bool) -> None:
    """Print the snapshots as a table, or as a JSON list; oldest first."""
    rows = [
        {
            "id": each.id,
            "name": each.name,
            "owner": each.owner,
            "environment": each.origin,
            "runtime": each.runtime.value,
            "image": each.image,
            "bytes": each.size,
            "created": iso(each.created_at.timestamp()),
            "expires": iso(each.expires_at.timestamp()),
        }
        for each in read_snapshots(_directory())
    ]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    names = ("id", "name", "owner", "runtime", "size", "created (UTC)", "expires (UTC)")
    table = Table(*(Column(name, no_wrap=True) for name in names), box=None)
    for row in rows:
        table.add_row(
            *(str(row[name]) for name in ("id", "name", "owner", "runtime")),
            f"{int(row['bytes']) / 1e6:.1f} MB",
            str(row["created"])[:16],
            str(row["expires"])[:16],
        )
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = max(console.width, _TABLE_WIDTH)  # an id that is cut is of no use
    console.print(table if rows else _NOTHING)


def _directory() -> Path:
    """Where they are; what is wrong with one is logged on stderr."""
    settings = load()
    configure_logging(settings.log_level, settings.log_format)
    return Places.of(settings).snapshots


def rm(ids: Sequence[str]) -> None:
    """Remove snapshots by the ids that `ls` shows, all or none, and print each."""
    if not ids:
        raise InvalidArgument("No snapshot was named.", hint="See 'waggle snapshot ls'.")
    directory = _directory()
    known = {each.id for each in read_snapshots(directory)}
    for wanted in ids:
        if wanted not in known:
            raise NotFound(
                f"There is no snapshot {wanted[:60]!r}.", hint="See 'waggle snapshot ls'."
            )
    for wanted in ids:
        try:
            remove_directory(directory / wanted)
        except OSError as error:
            raise SetupIncomplete(
                f"Snapshot {wanted} cannot be removed: {error.strerror}.",
                hint="Run this as the user of the server.",
            ) from error
        sys.stdout.write(f"{wanted}\n")
