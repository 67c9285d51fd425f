# SPDX-License-Identifier: Apache-2.0
"""A copy of a frozen machine gets its own identity, or is stopped, and why. Used by `blueprint`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from waggle.domain.errors import GuestLost
from waggle.domain.machine import Machine
from waggle.infra.guest.boot import VmmKilled
from waggle.infra.rootfs.machine_disks import HANG_UP
from waggle.tasks import stage

_END_SECONDS: Final = 1.0
"""Between the loss of a VMM's channels and its end."""


async def renewed(copy: Machine, identity: Mapping[str, bytes]) -> Machine:
    """Return the copy with that identity, and without the connections of what it is a copy of.

    It is stopped if that fails or is cancelled. Raises GuestLost, or VmmKilled if its VMM was
    killed meanwhile: that says nothing of what it is a copy of.
    """
    try:
        with stage("renewal"):
            await copy.renew({**HANG_UP, **identity})
    except GuestLost as error:
        try:
            was_killed = await copy.was_killed(_END_SECONDS)
        finally:
            await copy.stop()
        if was_killed:
            raise VmmKilled(f"The machine was killed at its start: {error.message}") from error
        raise
    except BaseException:
        await copy.stop()
        raise
    return copy
