# SPDX-License-Identifier: Apache-2.0
"""What a guest on this host needs of its egress proxy. Used by `start`, `guest` and `network`.

`infra.net.egress` has the proxy; this knows nothing of how it serves and judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from waggle.domain.network import Network
from waggle.domain.network.rules import Rule
from waggle.domain.network.use import NetworkUse
from waggle.infra.net.guest_request import ConnectHome
from waggle.infra.ssh import ServeTunnel


class Proxy(Protocol):
    """The egress proxy of one environment."""

    @property
    def serve(self) -> ServeTunnel:
        """Serve one connection of the guest."""
        ...

    def lead_home(self, connect: ConnectHome, hostname: str) -> None:
        """Connect requests of the guest for itself in the guest, with `connect`."""
        ...

    def network_use(self) -> NetworkUse:
        """Return what it allowed and refused so far."""
        ...

    def remember(self, use: NetworkUse) -> None:
        """Begin with what the proxy of the machine before it remembered."""
        ...

    @property
    def network(self) -> Network:
        """What the guest may reach now."""
        ...

    def set_network(self, network: Network, registries: Sequence[Rule] | None = None) -> int:
        """Judge by another network and registries; return how many open connections ended."""
        ...

    async def aclose(self) -> None:
        """End everything that is being served. Idempotent."""
        ...
