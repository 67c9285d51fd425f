# SPDX-License-Identifier: Apache-2.0
"""The exposed ports of one environment, and the connections to them, which wake it.

Owned by `LiveEnvironment`, which supplies the guest of the time. Ports and their listeners belong
to the environment, not to its guest: they stay while it is paused, in memory or to the disk, and
when its guest is replaced. A visit is a connection of a client, through a listener of this host or
through `waggle.web`: it resumes a paused environment, counts as use and ends when the environment
is paused. Knows no owners and no bytes.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import anyio
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import (
    GuestLost,
    NotFound,
    NotRunning,
    TimedOut,
    TooManyPorts,
    TooManyVisits,
    WaggleError,
)
from waggle.domain.exposure import (
    MAX_EXPOSED_PORTS,
    MAX_VISITS,
    ByteStream,
    ExposedPort,
    Listeners,
    StreamLost,
    Visit,
)
from waggle.domain.host import Guest
from waggle.domain.observer import Clock
from waggle.tasks import finish, together

log = structlog.get_logger(__name__)
WAKE_SECONDS = 60.0
"""How long a visit waits until its environment runs and its port is connected."""
WAKE_AGAIN = timedelta(seconds=5)
"""How long visits are refused after an environment could not be resumed for one."""
PRESENCE_SECONDS = 15.0
"""How often a connected client counts as use."""


def new_key() -> str:
    """Return a key for a newly exposed port."""
    return secrets.token_urlsafe(12)


class Visited(Protocol):
    """The environment, as its ports see it."""

    @property
    def environment(self) -> Environment:
        """The environment as it is now."""
        ...

    @property
    def current_guest(self) -> Guest | None:
        """Its guest, if it runs."""
        ...

    def unreachable(self) -> WaggleError | None:
        """Return why it takes no visits and is not worth waiting for, if that is so."""
        ...

    async def record(self, exposed: tuple[ExposedPort, ...]) -> None:
        """Set and record its exposed ports. Must not raise."""
        ...

    def visited(self) -> None:
        """Count a visit as use."""
        ...


@dataclass(slots=True, eq=False)
class _Visit:
    port: int
    stream: ByteStream | None = None
    scope: anyio.CancelScope | None = None

    def end(self) -> None:
        """End it, if it is connected."""
        if self.stream is not None:
            self.stream.abort()
        if self.scope is not None:
            self.scope.cancel()


class ExposedPorts:
    """Safe for concurrent use on one event loop. `aclose` it; what is recorded stays."""

    def __init__(
        self,
        life: Visited,
        listeners: Callable[[Visit], Listeners],
        wake: Callable[[], Awaitable[object]],
        clock: Clock,
        new_key: Callable[[], str] = new_key,
    ) -> None:
        """`wake` resumes the environment, if there is room for it, or raises a WaggleError."""
        self._life = life
        self._listeners = listeners(self.visit)
        self._wake = wake
        self._clock = clock
        self._new_key = new_key
        self._visits = set[_Visit]()
        self._turn = anyio.Lock()
        self._waking = anyio.Lock()
        self._failure: tuple[datetime, WaggleError] | None = None
        self._closed = False

    @property
    def all(self) -> tuple[ExposedPort, ...]:
        """The exposed ports, oldest first."""
        return () if self._closed else self._life.environment.exposed

    @property
    def visits(self) -> int:
        """The number of connections, those included that wait for the guest."""
        return len(self._visits)

    def find(self, port: int) -> ExposedPort | None:
        """Return the port if it is exposed."""
        return next((exposed for exposed in self.all if exposed.port == port), None)

    async def expose(self, port: int) -> ExposedPort:
        """Listen for it on this host. Idempotent. Raises TooManyPorts or GuestLost."""
        async with self._turn:
            if self._closed:
                raise GuestLost("The environment is being destroyed.")
            if known := self.find(port):
                return known
            if len(self.all) >= MAX_EXPOSED_PORTS:
                raise TooManyPorts(f"{MAX_EXPOSED_PORTS} ports of the environment are exposed.")
            return await finish(self._expose(port))

    async def _expose(self, port: int) -> ExposedPort:
        made = ExposedPort(port, await self._listeners.listen(port), self._new_key())
        await self._life.record((*self.all, made))
        return made

    async def unexpose(self, port: int) -> bool:
        """Close it with its connections; return whether it was exposed. Finishes if cancelled."""
        with anyio.CancelScope(shield=True):
            async with self._turn:
                if self.find(port) is None:
                    return False
                await self._life.record(tuple(one for one in self.all if one.port != port))
                for visit in self._visits:
                    if visit.port == port:
                        visit.end()
                await self._listeners.close(port)
        return True

    async def listen_again(self) -> None:
        """Listen for the recorded ports, at the server's start, on the same local ports if free."""
        again: list[ExposedPort] = []
        async with self._turn:
            for one in self.all:
                with contextlib.suppress(TooManyPorts):
                    local = await self._listeners.listen(one.port, one.local_port)
                    again.append(replace(one, local_port=local))
            if tuple(again) != self.all:
                await self._life.record(tuple(again))

    def hang_up(self) -> None:
        """End all connected visits, as the guest stops or goes; the ports stay exposed."""
        for visit in self._visits:
            visit.end()

    async def aclose(self) -> None:
        """Close all permanently, as environment or server end. Idempotent."""
        self._closed = True
        self.hang_up()
        await self._listeners.aclose()

    @contextlib.asynccontextmanager
    async def visit(self, port: int) -> AsyncGenerator[ByteStream]:
        """Connect to a port for the length of a block, and resume the environment if it is paused.

        Raises NotFound if the port is not exposed, TooManyVisits, TimedOut, NotRunning, GuestLost
        if nothing listens, Busy while it is restarted, or what the resume raises. Raises StreamLost
        in the middle of the block when the port is closed or the environment paused or restarted.
        """
        if self.find(port) is None:
            raise self._not_exposed(port)
        if len(self._visits) >= MAX_VISITS:
            raise TooManyVisits(f"{MAX_VISITS} connections to this environment are open.")
        visit = _Visit(port)
        self._visits.add(visit)
        is_over = False
        try:
            visit.stream = await self._open(port)
            async with together() as group:
                visit.scope = group.cancel_scope
                group.start_soon(self._attend)
                yield visit.stream
                is_over = True
                group.cancel_scope.cancel()
        finally:
            self._visits.discard(visit)
            if visit.stream is not None:
                visit.stream.abort()
                self._life.visited()
        if not is_over:
            raise StreamLost("the environment was paused, or its port closed")

    def _not_exposed(self, port: int) -> NotFound:
        why = f"Port {port} of this environment is not exposed."
        return NotFound(why, hint="Expose it with expose_port.")

    async def _attend(self) -> None:
        """Report the visit at intervals until cancelled."""
        while True:
            self._life.visited()
            await anyio.sleep(PRESENCE_SECONDS)

    async def _open(self, port: int) -> ByteStream:
        try:
            with anyio.fail_after(WAKE_SECONDS):
                while True:
                    guest = self._life.current_guest
                    if guest is None:
                        await self._awaken()
                        continue
                    stream = await guest.connect_to(port)
                    if self._life.current_guest is guest and self.find(port) is not None:
                        if stream is None:
                            why = f"Nothing listens on port {port} of the environment."
                            raise GuestLost(why, hint="Start the program that serves it there.")
                        return stream
                    if stream is not None:
                        stream.abort()
                    if self.find(port) is None:
                        raise self._not_exposed(port)
        except TimeoutError:
            why = f"The environment could not be resumed within {WAKE_SECONDS:g} s."
            raise TimedOut(why, hint="Try again; get_environment says what it does.") from None

    async def _awaken(self) -> None:
        """Resume it once for all that wait. After a failure, refuse for a while."""
        if (refusal := self._life.unreachable()) is not None:
            raise refusal
        async with self._waking:
            if self._life.environment.state not in (State.PAUSED, State.RESUMING):
                self._life.environment.require_running()
                return
            if self._failure is not None and self._clock() < self._failure[0] + WAKE_AGAIN:
                error = self._failure[1]
                raise type(error)(error.message, hint=error.hint)
            try:
                await self._wake()
            except NotRunning:
                raise
            except WaggleError as error:
                self._failure = (self._clock(), error)
                raise
            self._failure = None
            log.info("environment_woken", environment=self._life.environment.id)
