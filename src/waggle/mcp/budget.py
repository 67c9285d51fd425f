# SPDX-License-Identifier: Apache-2.0
"""Keep a result small enough for every client.

Common clients refuse one event of more than 1 MiB, and a tool's result goes over the wire twice:
as text for a model and as structured content. So one copy of what a guest wrote may take
`COPY_BUDGET` bytes as JSON, in its most wasteful form (every non-ASCII character escaped).
"""

from __future__ import annotations

import json

from waggle.domain.execution import Output

COPY_BUDGET = 480_000
"""Bytes of JSON that one copy of a result's payload may take."""


def wire_size(text: str) -> int:
    """Bytes that `text` takes inside a JSON document, at most."""
    return len(json.dumps(text)) - 2


def fit(text: str, budget: int) -> str:
    """A start of `text` that takes at most `budget` bytes on the wire, and not much less.

    Not empty unless `text` is, for any budget of 12 bytes or more.
    """
    keep = len(text)
    while (size := wire_size(text[:keep])) > budget:
        keep = min(keep * budget // size, keep - 1)
    return text[:keep]


def share(stdout: Output, stderr: Output, budget: int = COPY_BUDGET) -> tuple[Output, Output]:
    """Both streams cut so that together they fit; a short one leaves its room to the other."""
    first, second = wire_size(stdout.text()), wire_size(stderr.text())
    if first + second <= budget:
        return stdout, stderr
    half = budget // 2
    if first <= half:
        return stdout, shrink(stderr, budget - first)
    if second <= half:
        return shrink(stdout, budget - second), stderr
    return shrink(stdout, half), shrink(stderr, half)


def shrink(output: Output, budget: int) -> Output:
    """The same stream with more of its middle cut out, until its text fits `budget`."""
    kept = len(output.head) + len(output.tail)
    while (size := wire_size(output.text())) > budget and kept > 0:
        kept = min(kept * budget // size, kept - 1)
        output = _cut(output, kept)
    return output


def _cut(output: Output, kept: int) -> Output:
    """Keep `kept` bytes, half from each end. `Output.text` leaves out characters cut through."""
    rest = output.tail or output.head
    half = kept // 2
    return Output(
        head=output.head[: kept - half], tail=rest[len(rest) - half :], total=output.total
    )
