# SPDX-License-Identifier: Apache-2.0
"""Attacks of a hostile SSH server: the loop continues, memory is bounded, others are answered.

`stall_cpu` is the CPU time of the loop's thread between two checks, which a busy host does not
change. Figures from before the bounds are in docs/decisions/0023-bounds-for-ssh.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.support.hostile_ssh import ATTACKS, DEAF, Where, hostile
from tests.support.ssh_flood import attacked

DROPPED = (
    "forwarded-opens", "unknown-opens", "global-requests", "unknown-packets", "debug", "ignore",
    "unknown-packets-unread",
)  # fmt: skip
THROTTLED = ("one-byte-data", "channel-requests", "channel-requests-unread")
SECONDS = 1.0
MAX_STALL = 0.25
MAX_MB = 60


@pytest.fixture(scope="module")
async def servers(anyio_backend: str) -> AsyncGenerator[tuple[Where, Where]]:
    async with hostile() as bad, hostile() as good:
        yield bad, good


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [*DROPPED, *THROTTLED, "rekey-without-end"])
async def test_a_flood_blocks_no_other_connection(kind: str, servers: tuple[Where, Where]) -> None:
    figures = await attacked(kind, *servers, SECONDS, until_said=kind in DROPPED)
    assert figures.stall_cpu < MAX_STALL, figures
    assert figures.grown < MAX_MB, figures
    assert figures.kept < MAX_MB / 2, figures
    assert figures.waits, figures
    assert figures.ended < 10, figures
    assert figures.says == ("guest_misbehaves" if kind in DROPPED else ""), figures


def test_every_attack_is_tried() -> None:
    assert {*DROPPED, *THROTTLED} == {*ATTACKS, *DEAF}
