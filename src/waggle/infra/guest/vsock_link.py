# SPDX-License-Identifier: Apache-2.0
"""The server's connections to a machine that has vsock and no virtio console.

`VsockLink` is what an adapter needs of it, and `LinkedMachine` takes one. A boot: make the
`ConsoleListener`, start the VMM, `listen`, start the guest, `until_ready`, `reach`. A resume: the
same without `until_ready`, since a copy prints no ready line: it is ready once `reach` has its
answer, for which it waits until the guest has called. A machine that goes on after it was frozen:
`hang_up` while it is paused, and `reach` when it runs. A snapshot breaks every connection of the
guest, so both ends dial anew: the guest its console, the server the rest. Those of the forwarder
are its own affair: `close` and `start` it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from waggle.domain.errors import GuestLost
from waggle.infra.guest.agent import MachineAgent, log_audit
from waggle.infra.guest.channel import Streams
from waggle.infra.guest.console import Console
from waggle.infra.guest.link import GuestLink
from waggle.infra.guest.protocol import MAX_ANSWER
from waggle.infra.guest.renewal import Renewal
from waggle.infra.guest.vsock import AGENT_PORT, RENEWAL_PORT, ConsoleListener, VsockDoor
from waggle.tasks import end

_DRAIN_SECONDS = 2.0
PATIENCE: Final = 5.0
"""Seconds for an answer. A connection may be lost without a sign to this side when a copy begins to
run, so it is made again, with twice the time. A copy whose memory is still read from a file, on a
busy host, has taken three."""
CALL_SECONDS: Final = 1.0
"""How long the guest's own call, for its console, is awaited. It has noticed by then that a
snapshot has broken its connections: it breaks those, too, that are made before. A guest that does
not call is called all the same."""
_PAUSE: Final = 0.02
"""Seconds until a guest that does not listen yet is called again."""


class VsockLink(GuestLink):
    """The connections to one machine. It owns the listener; `close` releases everything."""

    def __init__(
        self,
        console: Console,
        listener: ConsoleListener,
        *,
        patience: float = PATIENCE,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """`patience` is how many seconds the first try of `reach` waits for an answer.

        `call_seconds` is how long it waits for the guest's call before.
        """
        super().__init__(console)
        self._patience = patience
        self._call_seconds = call_seconds
        self._listener = listener
        self._door: VsockDoor | None = None
        self._renewal = Renewal(lambda: self._dial(RENEWAL_PORT))

    async def listen(self, messages: socket.socket, door: VsockDoor) -> None:
        """Listen to the console and to the VMM's own messages; opens no connection to the guest.

        The caller closes `messages` and the door's directory, after `close`. Call it once.
        """
        self._door = door
        self._listener.follow(self.console, door.pid)
        await self._follow(messages, self.console.follow_messages)
        self._agent = MachineAgent(lambda: self._dial(AGENT_PORT), log_audit)

    @property
    def renewal(self) -> Renewal:
        """The channel to PID 1. Raises GuestLost."""
        if self._door is None:
            raise GuestLost("The machine is not connected.")
        return self._renewal

    async def reach(self, wait: Callable[[], Awaitable[str]], seconds: float) -> str | None:
        """Connect to the guest's first process and its agent; return the cause if the VMM ends.

        `wait` is as in `until_ready`. None means that the first process has answered. Raises
        GuestLost when it has not within so many seconds. Safe to cancel and to repeat.
        """
        ended = asyncio.ensure_future(wait())
        reached = asyncio.ensure_future(self._reach())
        try:
            await asyncio.wait(
                {ended, reached}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if ended.done():
                return ended.result()
            if not reached.done():
                raise GuestLost(f"The guest does not answer within {seconds:g} s.")
            reached.result()
        finally:
            await end(ended, reached)
        return None

    async def _reach(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._call_seconds):
                await self._listener.called.wait()
        patience = self._patience
        while True:
            try:
                async with asyncio.timeout(patience):
                    await self.renewal.greet()
                    await self._reach_agent()
                return
            except TimeoutError:
                patience *= 2
            except (GuestLost, OSError):
                await asyncio.sleep(_PAUSE)
            self._renewal.hang_up()

    async def _reach_agent(self) -> None:
        """Call the agent until it is there. The caller bounds the time.

        Both ends count connections anew after a snapshot, so a new one may look to the guest like
        one that its agent has not closed yet, and be refused.
        """
        while True:
            try:
                await self.agent.connect()
                return
            except (GuestLost, OSError):
                await asyncio.sleep(_PAUSE)

    async def hang_up(self) -> None:
        """Give up all connections, since a snapshot has broken them. Idempotent.

        Calls of the agent that are under way raise GuestLost. The guest's processors are stopped
        meanwhile, so that its first process finds the console free when it calls.
        """
        self._listener.drop()
        self._renewal.hang_up()
        if self._agent is not None:
            await self._agent.close()

    async def drain(self) -> None:
        """See `GuestLink.drain`."""
        await asyncio.gather(self._drain_console(), super().drain())

    async def _drain_console(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._listener.drain()

    async def close(self) -> None:
        """See `GuestLink.close`."""
        await self.drain()
        await self._listener.close()
        self._renewal.hang_up()
        await super().close()

    async def _dial(self, port: int) -> Streams:
        if self._door is None:
            raise ConnectionResetError("the machine is not connected")
        wire = await self._door.dial(port)
        try:
            return await asyncio.open_connection(sock=wire, limit=MAX_ANSWER)
        except BaseException:
            wire.close()
            raise
