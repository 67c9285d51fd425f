# SPDX-License-Identifier: Apache-2.0
"""What an environment has made of its network, as its egress proxy remembers it. Pure.

A diagnosis, get_environment and `waggle env network --log` show it. `restart_environment` keeps
it; it begins anew after a pause to disk, a rollback or a restart of the server.
"""

from __future__ import annotations

from dataclasses import dataclass

from waggle.domain.network import PUBLIC_NETWORK, Network
from waggle.domain.network.decisions import Decision


@dataclass(frozen=True, slots=True)
class Remembered:
    """Equal decisions. Bytes are those of the connections that have ended."""

    decision: Decision
    count: int
    ago: float
    """Seconds since the last of them."""
    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """Totals, and the last decisions, grouped; the latest is the last one.

    `network` is what is reached now. Bytes are those sent to servers and received. `connections`
    were made, `refused` were denied; `allowed` and `denied` have at most MOST_REMEMBERED groups
    each.
    """

    network: Network = PUBLIC_NETWORK
    connections: int = 0
    refused: int = 0
    sent: int = 0
    received: int = 0
    allowed: tuple[Remembered, ...] = ()
    denied: tuple[Remembered, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.connections or self.refused)

    def denied_within(self, seconds: float) -> tuple[Decision, ...]:
        """Return what was refused in that time, each once.

        Whichever program of the environment caused it: of several that run at the same time, the
        proxy does not know which one asked.
        """
        return tuple(one.decision for one in self.denied if one.ago <= seconds)

    def reached_within(self, seconds: float) -> tuple[str, ...]:
        """Return the hosts of connections that were made in that time, the latest first."""
        hosts = (one.decision.host for one in reversed(self.allowed) if one.ago <= seconds)
        return tuple(dict.fromkeys(hosts))


NO_USE = NetworkUse()
MOST_REMEMBERED = 64
"""The most groups of decisions, allowed and denied each, that a proxy remembers."""
