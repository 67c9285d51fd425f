# SPDX-License-Identifier: Apache-2.0
"""Keep a result small enough for every client.

What a model reads is counted in characters. Beside that, common clients refuse one event of more
than 1 MiB, and a tool's result goes over the wire twice: as text for a model and as structured
content. So one copy of what a guest wrote may take `COPY_BUDGET` bytes as JSON, in its most
wasteful form (every non-ASCII character escaped).
"""

from __future__ import annotations

import json

from waggle.domain.programs.execution import Output

COPY_BUDGET = 480_000
"""Bytes of JSON that one copy of a result's payload may take."""
LIST_BUDGET = 32_000
"""Characters that a list of what a guest has (files, matches) may take."""


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


def share(stdout: Output, stderr: Output, characters: int) -> tuple[Output, Output]:
    """Both streams cut so that their texts have at most `characters` together, and always fit.

    A short one leaves its room to the other.
    """
    first, second = _cost(stdout.text(), characters), _cost(stderr.text(), characters)
    if first + second <= characters:
        return stdout, stderr
    half = characters // 2
    if first <= half:
        return stdout, shrink(stderr, characters - first, characters)
    if second <= half:
        return shrink(stdout, characters - second, characters), stderr
    return shrink(stdout, half, characters), shrink(stderr, half, characters)


def shrink(output: Output, room: int, characters: int) -> Output:
    """The same stream with more of its middle cut out, until its text takes `room`."""
    kept = len(output.head) + len(output.tail)
    while (cost := _cost(output.text(), characters)) > room and kept > 0:
        kept = min(kept * room // cost, kept - 1)
        output = _cut(output, kept)
    return output


def _cost(text: str, characters: int) -> int:
    """Its characters, or its share of COPY_BUDGET in terms of `characters` where that is more."""
    return max(len(text), -(-wire_size(text) * characters // COPY_BUDGET))


def _cut(output: Output, kept: int) -> Output:
    """Keep `kept` bytes, half from each end. `Output.text` leaves out characters cut through."""
    rest = output.tail or output.head
    half = kept // 2
    return Output(
        head=output.head[: kept - half], tail=rest[len(rest) - half :], total=output.total
    )
