# SPDX-License-Identifier: Apache-2.0
"""Whether a transfer still moves. Called by `blobs` for what comes."""

from __future__ import annotations

from collections.abc import Callable

from waggle.infra.oci.registry.retry import Transient

_LEAST = 16 * 1024
"""Bytes that must come within one window."""


class Pace:
    """Notices a transfer that crawls so that no single read takes long enough to time out."""

    def __init__(self, window: float, clock: Callable[[], float]) -> None:
        """`window` is in seconds of `clock`."""
        self._window, self._clock = window, clock
        self._since, self._bytes = clock(), 0

    def add(self, count: int, registry: str) -> None:
        """Count what came. Raises Transient when too little did within the window."""
        self._bytes += count
        now = self._clock()
        if self._bytes >= _LEAST:
            self._since, self._bytes = now, 0
        elif now - self._since > self._window:
            raise Transient(f"{registry}: it hardly sends anything.")
