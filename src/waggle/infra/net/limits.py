# SPDX-License-Identifier: Apache-2.0
"""What one environment's proxy may use, and what it has used.

Built by the composition root; read by `egress`, `session` and `dial`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DialTimes:
    """Seconds for opening a connection to a server."""

    dns: float = 5.0
    connect: float = 10.0
    """For all attempts together."""
    stagger: float = 0.3
    """Head start of one address before the next one is tried beside it."""


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Times are seconds, sizes bytes."""

    connections: int = 64
    """At once; one more gets 503."""
    header_seconds: float = 30.0
    """For a whole request head to arrive, counted from the end of the previous request."""
    idle_seconds: float = 300.0
    """Without a byte in either direction, and for the first byte of an answer."""
    linger_seconds: float = 2.0
    """For the guest to hang up after the last answer."""
    header_bytes: int = 32 * 1024
    dial: DialTimes = field(default_factory=DialTimes)


@dataclass(slots=True)
class Traffic:
    """Running totals of one environment."""

    to_guest: int = 0
    to_internet: int = 0
    connections: int = 0
    refused: int = 0

    def count_to_guest(self, size: int) -> None:
        """Add bytes written to the guest."""
        self.to_guest += size

    def count_to_internet(self, size: int) -> None:
        """Add bytes written to servers."""
        self.to_internet += size
