# SPDX-License-Identifier: Apache-2.0
"""What an environment takes of the machine it runs on, and which of its ports can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from waggle.domain.errors import InvalidArgument

MAX_EXPOSED_PORTS = 8
MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Usage:
    """What the host counts of one machine; the guest is not asked, so it can neither lie nor hang.

    `cpu_seconds` is processor time of the machine's process since its start, `memory_bytes` what it
    holds resident now, `disk_bytes` what its writable disk takes of the host's.
    """

    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes of the disk on which environments are: free, and taken by each, by its id."""

    free: int
    of_environments: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """A TCP port of the guest's 127.0.0.1 that can be reached on the server's 127.0.0.1."""

    port: int
    local_port: int

    @property
    def url(self) -> str:
        """Where an HTTP server behind it answers."""
        return f"http://127.0.0.1:{self.local_port}/"


def parse_guest_port(port: int) -> int:
    """A port that programs can listen on. Raises InvalidArgument outside 1 to 65535."""
    if not 1 <= port <= MAX_PORT:
        raise InvalidArgument(
            f"port must be 1 to {MAX_PORT}.", hint="Use the port that the program listens on."
        )
    return port
