# SPDX-License-Identifier: Apache-2.0
"""`waggle template ls`, `rm` and `prune`: files only; a running server notices."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Column, Table

from waggle.cli.image.images import iso
from waggle.cli.progress import say
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.errors import InvalidArgument, NotFound
from waggle.infra.store.frozen_files import TemplateStore

_TABLE_WIDTH = 120
_NOTHING = (
    "No templates. The server makes them in the background after a first boot,"
    " and 'waggle template build' makes them now."
)


def ls(*, as_json: bool) -> None:
    """Print the templates as a table, or as a JSON list."""
    rows = [
        {
            "id": each.key.id,
            "bytes": each.size,
            "created": iso(each.created_at.timestamp()),
            "used": iso(each.used_at.timestamp()),
            "parts": dict(each.key.parts),
        }
        for each in _store().all()
    ]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    names = ("id", "image", "cpus", "memory", "size", "used")
    table = Table(*(Column(name, no_wrap=True) for name in names), box=None)
    for each in _store().all():
        parts = each.key.parts
        table.add_row(
            each.key.id,
            parts.get("image", "")[:19],
            parts.get("cpus", ""),
            f"{parts.get('memory_mib', '')} MiB",
            f"{each.size / 1e6:.1f} MB",
            iso(each.used_at.timestamp())[:16],
        )
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = max(console.width, _TABLE_WIDTH)  # an id that is cut is of no use
    console.print(table if rows else _NOTHING)


def rm(ids: Sequence[str]) -> None:
    """Remove templates by the ids that `ls` shows, all or none, and print each."""
    if not ids:
        raise InvalidArgument("No template was named.", hint="See 'waggle template ls'.")
    store = _store()
    known = {each.key.id for each in store.all()}
    for wanted in ids:
        if wanted not in known:
            raise NotFound(
                f"There is no template {wanted[:60]!r}.", hint="See 'waggle template ls'."
            )
    for wanted in ids:
        store.remove(wanted)
        sys.stdout.write(f"{wanted}\n")


def prune(older_than: str) -> None:
    """Remove what was not used for so many days, and print each id."""
    match = re.fullmatch(r"([0-9]{1,5})d", older_than)
    if match is None:
        raise InvalidArgument(f"{older_than[:20]!r} is no number of days.", hint="Say 7d, or 0d.")
    store, before = _store(), datetime.now(UTC) - timedelta(days=int(match[1]))
    store.sweep()
    old = [each for each in store.all() if each.used_at <= before]
    for each in old:
        store.remove(each.key.id)
        sys.stdout.write(f"{each.key.id}\n")
    say(f"{len(old)} templates removed, {sum(each.size for each in old) / 1e6:.1f} MB.")


def _store() -> TemplateStore:
    return TemplateStore(Places.of(load()).templates)
