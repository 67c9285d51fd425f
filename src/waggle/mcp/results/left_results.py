# SPDX-License-Identifier: Apache-2.0
"""Programs left running, as results show them. Pure. The guest chose their words."""

from __future__ import annotations

from collections.abc import Sequence

from waggle.domain.programs.execution import MAX_COMMAND
from waggle.mcp.errors import clean
from waggle.mcp.results.jobs import LeftItem
from waggle.service.programs.jobs import LeftList

_MAX_SHOWN = 100


def left_items(left: LeftList) -> list[LeftItem]:
    """As models."""
    return [
        LeftItem(pid=each.pid, command=clean(each.command, MAX_COMMAND), job_id=each.job)
        for each in left.programs[:_MAX_SHOWN]
    ]


def left_lines(items: Sequence[LeftItem]) -> list[str]:
    """As lines for a model."""
    return [
        f"left running: pid {each.pid}"
        + (f" of job {each.job_id}" if each.job_id else "")
        + f": {each.command}"
        for each in items
    ]
