# SPDX-License-Identifier: Apache-2.0
"""Ports of environments on the server's loopback: exposed, waited for, closed.

Called by `waggle.mcp`; the guest does the work. Who is connected through an exposed port has the
environment in use, for a time (`LiveEnvironment`).
"""

from __future__ import annotations

from waggle.domain.network import ExposedPort, parse_guest_port
from waggle.domain.programs.job import parse_wait
from waggle.service.environments.service import EnvironmentService

WAIT_SECONDS = 10.0


class PortService:
    """Use cases of exposed ports."""

    def __init__(self, environments: EnvironmentService) -> None:
        self._environments = environments

    async def expose(
        self, environment_id: str, port: int, *, owner: str, wait_seconds: float | None = None
    ) -> tuple[ExposedPort, bool]:
        """Expose a port and say whether something answers there. Idempotent.

        Waits at most `wait_seconds` (10) for that; the port stays exposed in either case, also
        when the caller is cancelled while it waits. Raises InvalidArgument, NotFound, NotRunning,
        TooManyPorts or GuestLost.
        """
        wanted = parse_guest_port(port)
        seconds = parse_wait(wait_seconds, WAIT_SECONDS)
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            exposed = await guest.expose(wanted)
            return exposed, await guest.answers(wanted, seconds)

    async def unexpose(self, environment_id: str, port: int, *, owner: str) -> bool:
        """Close a port with all its connections; say whether it was exposed.

        Raises InvalidArgument, NotFound or NotRunning.
        """
        wanted = parse_guest_port(port)
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            return await guest.unexpose(wanted)
