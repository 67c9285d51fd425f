# SPDX-License-Identifier: Apache-2.0
"""What use cases ask of a guest about its network; a part of `domain.host.Guest`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from waggle.domain.network import Network
from waggle.domain.network.registries import Registries
from waggle.domain.network.rules import Rule
from waggle.domain.network.use import NetworkUse


class NetworkOfGuest(Protocol):
    """The network of a guest, which its egress proxy judges."""

    async def registries(self, network: Network, ignoring: Collection[str]) -> Registries:
        """Ask its package managers which registries they use, and let the network reach them.

        They see the image's values of the variables in `ignoring`, if any. Takes 45 s at most,
        without emulation about one; what does not answer by then is missing. The guest wrote the
        answer. Raises GuestLost. Safe to cancel.
        """
        ...

    def set_network(self, network: Network, registries: Sequence[Rule]) -> int:
        """Judge its connections by another network; return how many open ones that ended.

        `registries` are what @packages stands for.
        """
        ...

    async def renew_network(self) -> None:
        """Have its programs know whether they have a network, and forget what names were.

        Idempotent. Raises GuestLost. The proxy judges by its own rules in any case.
        """
        ...

    def network_use(self) -> NetworkUse | None:
        """Return what it has made of its network so far; None without a network.

        It begins anew with each machine: after a pause to disk, a rollback or a restart.
        """
        ...
