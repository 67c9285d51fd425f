# SPDX-License-Identifier: Apache-2.0
"""Questions to a guest that are asked once more when the connection breaks before the answer.

Some hypervisors break every connection of a machine that they freeze. Used for what changes nothing
in the guest; what may have changed something raises Interrupted, so that its caller decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from waggle.domain.errors import GuestLost

Answer = TypeVar("Answer")


class Interrupted(GuestLost):
    """The connection broke before the guest's answer, or a command's end, was known."""


async def once_more(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return the answer, after a second try if the first one is Interrupted. Safe to cancel.

    `ask` begins anew and changes nothing in the guest. Raises what it raises.
    """
    try:
        return await ask()
    except Interrupted:
        return await ask()
