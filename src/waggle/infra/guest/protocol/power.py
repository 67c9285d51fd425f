# SPDX-License-Identifier: Apache-2.0
"""What the protocol says of the clock, the power and the file systems of a machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from waggle.infra.guest.protocol.fields import Count, Message, Path, Result, Time


class SetTime(Message):
    """Set the clock to `time` at once."""

    time: Time


class ClockSet(Result):
    """The clock as it is now."""

    time: Time


class Manner(StrEnum):
    """How a machine ends: by its init, or at once after the file systems were synchronised."""

    GRACEFUL = "graceful"
    FORCED = "forced"


class End(Message):
    """End the machine. The answer comes first, and says that the end has been asked for."""

    manner: Annotated[Manner, Field(strict=False)] = Manner.GRACEFUL


class Freeze(Message):
    """Hold all writes to file systems, by default to all that can be frozen.

    After `timeout` seconds they are thawed again, so that a host that is gone freezes no machine.
    """

    mount_points: Annotated[list[Path], Field(max_length=64)] | None = None
    timeout: Annotated[int, Field(ge=1, le=600)] = 60


class Frozen(Result):
    """How many file systems are frozen by the agent, or were."""

    count: Count
