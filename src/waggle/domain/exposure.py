# SPDX-License-Identifier: Apache-2.0
"""Exposed ports as layers pass them on: streams into guests, and listeners on this host.

`waggle.service` joins the two: a `Guest` opens streams, an `EnvironmentHost` makes listeners.
`waggle.infra.net` implements both; `waggle.web` uses streams. Knows no HTTP and no SSH.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from waggle.domain.errors import InvalidArgument
from waggle.domain.machine import MAX_PORT

MAX_EXPOSED_PORTS = 8
MAX_VISITS = 64
"""Connections to the exposed ports of one environment, however they come, over all its ports."""


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """A TCP port of the guest's 127.0.0.1 that is reachable on the server's 127.0.0.1.

    `key` is new whenever the port is exposed; links to it contain it, and end with it.
    """

    port: int
    local_port: int
    key: str = field(default="", compare=False)

    @property
    def url(self) -> str:
        """The URL of an HTTP server behind it."""
        return f"http://127.0.0.1:{self.local_port}/"


def parse_guest_port(port: int) -> int:
    """Return a port that programs can listen on. Raises InvalidArgument outside 1 to 65535."""
    if not 1 <= port <= MAX_PORT:
        raise InvalidArgument(
            f"port must be 1 to {MAX_PORT}.", hint="Use the port that the program listens on."
        )
    return port


class StreamLost(Exception):
    """The other end of a stream is gone."""


class ByteStream(Protocol):
    """Bytes in both directions, such as a connection to a port of a guest."""

    async def read(self, limit: int = ..., /) -> bytes:
        """Read at most `limit` bytes; empty at the end. Raises StreamLost."""
        ...

    async def write(self, data: bytes, /) -> None:
        """Write all of `data`, and wait until most of it was taken. Raises StreamLost."""
        ...

    def write_eof(self) -> None:
        """End the write direction; reading is not affected. Idempotent."""
        ...

    def abort(self) -> None:
        """Drop the stream and all unsent bytes at once. Idempotent."""
        ...


Visit = Callable[[int], AbstractAsyncContextManager[ByteStream]]
"""Connects to an exposed port of one environment for the length of a block."""


class Listeners(Protocol):
    """The listeners of one environment on this host's 127.0.0.1, one for each exposed port."""

    async def listen(self, port: int, local_port: int = 0) -> int:
        """Listen for a port of the guest, on `local_port` if that is free; return the local port.

        Idempotent. Every connection visits the port. Raises TooManyPorts.
        """
        ...

    async def close(self, port: int) -> None:
        """Stop listening for it, and end its connections. Idempotent."""
        ...

    async def aclose(self) -> None:
        """Close all. Idempotent; further ones may be opened afterwards."""
        ...
