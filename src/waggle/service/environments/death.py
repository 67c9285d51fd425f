# SPDX-License-Identifier: Apache-2.0
"""What an environment's owner is told of its end. Used by `LiveEnvironment` only."""

from __future__ import annotations

import structlog

from waggle.domain.errors import WaggleError
from waggle.domain.host import Guest

log = structlog.get_logger(__name__)


async def death(guest: Guest) -> str:
    """The cause, once the guest is dead. A guest that cannot be watched counts as dead."""
    try:
        return await guest.wait_dead()
    except Exception as error:
        log.exception("guest_watch_failed")
        return f"it could not be watched any more ({cause_of(error)})"


def cause_of(error: BaseException) -> str:
    """What a client may read of an error; the rest is in the log."""
    if isinstance(error, WaggleError):
        return error.message
    return (
        f"internal error ({type(error).__name__})" if isinstance(error, Exception) else "cancelled"
    )
