# SPDX-License-Identifier: Apache-2.0
"""What a guest on this machine is given by others: its way out, and who freezes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from waggle.domain.diagnosis.evidence import Refused
from waggle.domain.host import Moment
from waggle.infra.net.guest_request import ConnectHome
from waggle.infra.ssh.connection import ServeTunnel


class Proxy(Protocol):
    """An egress proxy of one environment."""

    @property
    def serve(self) -> ServeTunnel:
        """Serve one connection of the guest."""
        ...

    def lead_home(self, connect: ConnectHome, hostname: str) -> None:
        """Have requests of the guest for itself connected in the guest."""
        ...

    def refused_since(self, moment: float) -> Sequence[Refused]:
        """What it refused from that moment of the monotonic clock on."""
        ...

    async def aclose(self) -> None:
        """End everything that is being served. Idempotent."""
        ...


class Freezer(Protocol):
    """Takes moments of one machine; `waggle.service.local.frozen.moments` has it."""

    def taken(self) -> AbstractAsyncContextManager[Moment]:
        """See `domain.host.Guest.moment`."""
        ...

    async def hibernate(self) -> None:
        """Keep its state among its files, and end it. Not to be cancelled."""
        ...
