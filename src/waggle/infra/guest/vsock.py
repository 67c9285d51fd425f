# SPDX-License-Identifier: Apache-2.0
"""The two ways between server and guest through a VMM that gives vsock as Unix sockets.

Used by `vsock_link` and the machines of such hypervisors. Towards the guest the VMM listens on a
socket in its directory, and a line names the guest's port (`VsockDoor`); from the guest the VMM
connects to a socket beside it that the server listens on (`ConsoleListener`). kit/guest/channels.h
has the same ports. The VMM is not trusted: the kernel confirms that the other end is its process,
and whatever it sends, or does not, is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Final

from waggle.domain.machine import GUEST_SSH_PORT
from waggle.infra.guest import door
from waggle.infra.guest.console import Console
from waggle.infra.guest.door import peer_pid
from waggle.tasks import end

CHANNELS_ARGUMENT: Final = "waggle.channels=vsock"
"""On the kernel's command line: the guest has no virtio console, and uses these ports instead."""
CONSOLE_PORT: Final = 1
"""The server's, to which the guest's first process connects. The others are the guest's."""
RENEWAL_PORT: Final = 23
AGENT_PORT: Final = 24

ANSWER_SECONDS: Final = 5.0
"""How long the VMM and the guest's kernel may take to open a connection; no process has to work."""
_MAX_ANSWER: Final = 32
_BACKLOG: Final = 16
_PAUSE: Final = 0.01
"""Seconds between two callers: a guest that calls without end is served no faster."""
_GRACE: Final = 0.05
"""Seconds for the end of the connection before, when a guest calls again: it came first."""


class VsockDoor:
    """The way to the guest's ports. The caller keeps and closes `directory`."""

    def __init__(
        self, directory: int, name: str, pid: int, *, seconds: float = ANSWER_SECONDS
    ) -> None:
        """Connect to the socket `name` in the open `directory`; process `pid` must answer."""
        self._seconds = seconds
        self._directory = directory
        self._name = name
        self._pid = pid

    async def dial(self, port: int) -> socket.socket:
        """Return a nonblocking connection to that port of the guest, which the caller closes.

        Takes at most `seconds`. Raises OSError: also when the guest does not listen, another
        process than the VMM answers, or the VMM's answer is none. Safe to cancel.
        """
        async with asyncio.timeout(self._seconds):
            guest = await door.dial(self._directory, self._name, pid=self._pid)
            try:
                await self._open(guest, port)
            except BaseException:
                guest.close()
                raise
        return guest

    async def _open(self, guest: socket.socket, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(guest, f"CONNECT {port}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            byte = await loop.sock_recv(guest, 1)  # what follows is the guest's
            if not byte:
                raise ConnectionRefusedError(f"The guest does not listen on port {port}.")
            answer += byte
            if len(answer) >= _MAX_ANSWER:
                break
        if not (answer.startswith(b"OK ") and answer[3:-1].isdigit() and answer.endswith(b"\n")):
            raise ConnectionAbortedError("The VMM's answer is none.")

    @property
    def pid(self) -> int:
        """The VMM."""
        return self._pid

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """Open a connection to the SSH server, for `Forwarder`. Raises OSError as `dial` does."""
        with await self.dial(GUEST_SSH_PORT) as guest:
            yield guest


class ConsoleListener:
    """The socket to which the VMM connects when the guest's first process wants a console.

    Made before the VMM starts; `follow` has it accept. One connection is read at a time, and is the
    console until it ends or `drop` is called: any program in the guest may call, and none of them
    takes the first process's place. Others are closed, one by one with pauses. `close` it.
    """

    def __init__(self, directory: int, name: str, uid: int | None = None) -> None:
        """Listen beside the VMM's socket `name`, for a VMM of that user. Raises OSError.

        Whoever removes the directory removes the socket.
        """
        own = f"{name}_{CONSOLE_PORT}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self._listener.fileno(), 0o600)  # the VMM may put a link in its place
            self._listener.bind(f"/proc/self/fd/{directory}/{own}")
            if uid is not None:
                os.chown(own, uid, uid, dir_fd=directory, follow_symlinks=False)
            self._listener.listen(_BACKLOG)
            self._listener.setblocking(False)
        except BaseException:
            self._listener.close()
            raise
        self.called = asyncio.Event()
        """Whether the VMM has passed on a call since the machine began, or since a `drop`."""
        self._console: Console | None = None
        self._pid = 0
        self._stop_accepting: Callable[[], object] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, console: Console, pid: int) -> None:
        """Feed the console from now on with what process `pid` passes on. Call it once.

        A connection that was made before waits in the socket's queue.
        """
        self._console, self._pid = console, pid
        self._listen()

    def drop(self) -> None:
        """Give up the connection, so that the next one is the console. Idempotent.

        For a machine that was frozen: to its guest the connection is broken already.
        """
        self.called.clear()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def drain(self) -> None:
        """Read to its end what a VMM that has ended left. The caller bounds the time."""
        while self._tasks or self._accept():
            if self._tasks:
                await asyncio.wait([*self._tasks])

    async def close(self) -> None:
        """Drop the connection and listen no more. Idempotent."""
        self._console = None  # a drain goes on only with those that were accepted
        self._rest()
        await end(*self._tasks)
        self._listener.close()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener, self._accept)
        self._stop_accepting = partial(loop.remove_reader, self._listener)

    def _rest(self) -> None:
        if self._stop_accepting is not None:
            self._stop_accepting()
            self._stop_accepting = None

    def _accept(self) -> bool:
        """Take one caller, if one waits, and then none for a short time."""
        if self._console is None or self._listener.fileno() < 0:
            return False
        self._rest()
        self._stop_accepting = asyncio.get_running_loop().call_later(_PAUSE, self._listen).cancel
        try:
            connection, _ = self._listener.accept()
        except OSError:  # none waits, or no descriptors are left
            return False
        if peer_pid(connection) != self._pid:
            connection.close()
            return True
        self.called.set()
        connection.setblocking(False)
        task = asyncio.create_task(self._serve(self._console, connection))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        task.add_done_callback(lambda _: connection.close())  # also if the task never began
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._reading is task:
            self._reading = None

    async def _serve(self, console: Console, connection: socket.socket) -> None:
        """Read from a caller, unless there is another whose end does not come in a short time."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=_GRACE)
        if self._reading is not None:
            return
        self._reading = asyncio.current_task()
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await console.follow(reader)
            console.feed(b"\n")  # the next connection begins with a line of its own
        finally:
            writer.transport.abort()
