# SPDX-License-Identifier: Apache-2.0
"""Use cases of exposed ports: expose, close, visit, and links for people without a token.

Called by `waggle.mcp` and `waggle.web`. The environment keeps its ports (`exposed`), the guest is
asked only to connect. A link belongs to one exposed port of one owner, and ends with its time, with
`unexpose` or with the environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime

from waggle.domain.access import Owner
from waggle.domain.errors import NotFound, Unsupported
from waggle.domain.exposure import ByteStream, ExposedPort, parse_guest_port
from waggle.domain.link import DEFAULT_MINUTES, Link, LinkTarget, judge, parse_minutes, sign
from waggle.domain.observer import Clock
from waggle.domain.programs.job import parse_wait
from waggle.service.environments.service import EnvironmentService

WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who may use a port through a link: as if that owner did, until it expires."""

    owner: Owner
    expires: int


def _now() -> datetime:
    return datetime.now(UTC)


class PortService:
    """Use cases of exposed ports. `key` signs links; without one there are none.

    `clock` is the wall clock: links outlive the server.
    """

    def __init__(
        self, environments: EnvironmentService, key: bytes | None = None, clock: Clock = _now
    ) -> None:
        self._environments = environments
        self._key = key
        self._clock = clock

    @property
    def has_links(self) -> bool:
        """Whether links can be made."""
        return self._key is not None

    async def expose(
        self, environment_id: str, port: int, *, owner: str, wait_seconds: float | None = None
    ) -> tuple[ExposedPort, bool]:
        """Expose a port; return it, and whether something answers there. Idempotent.

        Waits at most `wait_seconds` (10) for an answer. The port stays exposed without one, and
        when the caller is cancelled while waiting. Raises InvalidArgument, NotFound, NotRunning,
        TooManyPorts or GuestLost.
        """
        wanted = parse_guest_port(port)
        seconds = parse_wait(wait_seconds, WAIT_SECONDS)
        async with self._environments.using(environment_id, owner=owner) as (environment, guest):
            live = self._environments.life(environment.id)
            if live is None:
                raise NotFound(f"There is no environment {environment_id}.")
            exposed = await live.ports.expose(wanted)
            return exposed, await guest.answers(wanted, seconds)

    async def unexpose(self, environment_id: str, port: int, *, owner: str) -> bool:
        """Close a port with all its connections and links; return whether it was exposed.

        Resumes nothing. Raises InvalidArgument or NotFound.
        """
        wanted = parse_guest_port(port)
        live = self._environments.life(self._environments.get(environment_id, owner=owner).id)
        return live is not None and await live.ports.unexpose(wanted)

    @contextlib.asynccontextmanager
    async def visit(
        self, environment_id: str, port: int, *, owner: str
    ) -> AsyncGenerator[ByteStream]:
        """Connect to an exposed port for the length of a block; see `ExposedPorts.visit`.

        A paused environment is resumed. Raises NotFound for another owner's environment, too.
        """
        live = self._environments.life(environment_id)
        if live is None or live.environment.owner != owner:
            raise NotFound(f"There is no environment {environment_id}.")
        async with live.ports.visit(port) as stream:
            yield stream

    def link(
        self, environment_id: str, port: int, *, owner: str, minutes: float = DEFAULT_MINUTES
    ) -> Link:
        """Return a link to an exposed port. Raises InvalidArgument, NotFound or Unsupported."""
        seconds, wanted = parse_minutes(minutes), parse_guest_port(port)
        if self._key is None:
            raise Unsupported("This server makes no links.", hint="Use one that serves HTTP.")
        target = self._target(self._environments.get(environment_id, owner=owner).id, wanted)
        if target is None:
            raise NotFound(f"Port {wanted} is not exposed.", hint="Call expose_port first.")
        return sign(self._key, target, int(self._clock().timestamp()) + seconds)

    def admit(self, environment_id: str, port: int, token: str) -> Admitted | None:
        """Return whom a link's token admits; None if it is wrong, or not valid any more.

        Never tells which, nor whether there is such an environment or port.
        """
        if self._key is None:
            return None
        target = self._target(environment_id, port)
        no_target = LinkTarget(environment_id, port, "", "")
        expires = judge(self._key, target or no_target, token, self._clock().timestamp())
        if target is None or expires is None:
            return None
        return Admitted(Owner(target.owner), expires)

    def _target(self, environment_id: str, port: int) -> LinkTarget | None:
        live = self._environments.life(environment_id)
        exposed = None if live is None else live.ports.find(port)
        if live is None or exposed is None:
            return None
        return LinkTarget(environment_id, port, live.environment.owner, exposed.key)
