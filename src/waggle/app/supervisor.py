# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager that started this server: sd_notify(3), as datagrams.

`waggle.app.serving` makes a `Supervisor` of the process environment, and says through it that the
server is ready, reads its files again or stops, and that its event loop turns. Where nobody
supervises the server, it has no address and sends nothing. Knows nothing of what the server does.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
import structlog

log = structlog.get_logger(__name__)
SEND_SECONDS = 5.0
_MOST_STATUS = 500
_MICROSECONDS = 1_000_000
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The service manager. `watchdog`: seconds after which it ends a silent server, 0 for never.

    All methods wait until the message is sent, for `patience`, and never fail: a server is not
    worth less because nobody hears that it works.
    """

    address: str = ""
    watchdog: float = 0.0
    patience: float = SEND_SECONDS
    """Seconds for which a message waits for a manager that is busy."""

    @classmethod
    def of(cls, environ: Mapping[str, str], process: int) -> Supervisor:
        """Return the one that these variables name for this process. Pure."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")) or len(address) < 2:
            return cls()
        given, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        is_meant = meant in ("", str(process)) and _NUMBER.fullmatch(given) is not None
        return cls(address, int(given) / _MICROSECONDS if is_meant else 0.0)

    def dead_after(self, usual: int) -> int:
        """Return after how many seconds without a turn the process itself ends, with tracebacks.

        That is before the manager would end it, which says nothing about the cause. Pure.
        """
        return max(1, min(usual, int(self.watchdog * 0.8))) if self.watchdog else usual

    async def ready(self, status: str) -> None:
        """Tell that the server serves, or again does. `status` is for people."""
        await self._tell("READY=1", f"STATUS={_line(status)}")

    async def reloading(self) -> None:
        """Tell that the server reads its files again; `ready` follows."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        await self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading its files again")

    async def stopping(self) -> None:
        """Tell that the server stops."""
        await self._tell("STOPPING=1", "STATUS=stopping")

    async def beat(self) -> None:
        """Tell twice in the watchdog's time that the event loop turns, until cancelled."""
        while self.address and self.watchdog:
            await self._tell("WATCHDOG=1")
            await anyio.sleep(self.watchdog / 2)

    async def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        # An address that begins with @ is abstract: it is no file, and begins with a NUL.
        name = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        message = "\n".join(lines).encode()
        try:
            with (
                anyio.fail_after(self.patience),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
            ):
                sender.setblocking(False)
                # Only a connected socket can be waited for while the manager's queue is full.
                sender.connect(name)
                await asyncio.get_running_loop().sock_sendall(sender, message)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            log.warning("supervisor_not_notified", message=lines[0], why=str(error) or "it is busy")


def _line(text: str) -> str:
    """Return the text as one printable line."""
    return "".join(c if c.isprintable() else " " for c in text)[:_MOST_STATUS]
