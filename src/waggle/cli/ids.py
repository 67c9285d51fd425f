# SPDX-License-Identifier: Apache-2.0
"""Ids that a user typed: which of the known ones they are."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from waggle.domain.errors import InvalidArgument, NotFound


def require(kind: str, wanted: Sequence[str], known: Container[str]) -> None:
    """Raise InvalidArgument without an id, and NotFound for one that is not known."""
    hint = f"See 'waggle {kind} ls'."
    if not wanted:
        raise InvalidArgument(f"No {kind} was named.", hint=hint)
    for name in wanted:
        if name not in known:
            raise NotFound(f"There is no {kind} {name[:60]!r}.", hint=hint)


def matching(rows: Sequence[dict[str, Any]], key: str, wanted: str) -> list[dict[str, Any]]:
    """Return the rows with this id or name, or else those whose id begins so. `key` is the id's."""
    exact = [row for row in rows if wanted in (row[key], row["name"])]
    return exact or [row for row in rows if str(row[key]).startswith(wanted)]
