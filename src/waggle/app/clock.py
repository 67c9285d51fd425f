# SPDX-License-Identifier: Apache-2.0
"""The one clock of a server, made by the composition root."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from waggle.domain.observer import Clock


def steady_clock() -> Clock:
    """The wall clock of this moment, carried on by the monotonic one, so that it never jumps.

    See `domain.protocols.Clock`.
    """
    start, origin = datetime.now(UTC), time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - origin)
