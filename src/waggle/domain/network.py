# SPDX-License-Identifier: Apache-2.0
"""A guest's network policy and exposed ports, and its machine's use of the host. Pure.

The policy is chosen when an environment is created and enforced by the egress proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from waggle.domain.errors import InvalidArgument


class NetworkPolicy(StrEnum):
    """The part of the network that a guest may reach.

    `NONE`: nothing at all. `PUBLIC`: the internet through the host-side proxy, never the host,
    loopback, private, link-local or metadata addresses.
    """

    NONE = "none"
    PUBLIC = "public"


MAX_EXPOSED_PORTS = 8
MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Usage:
    """A machine's use of the host, which counts it: the guest is not asked, so cannot lie or hang.

    `cpu_seconds` is the processor time of the VMM since its start, `memory_bytes` its resident
    memory now, `disk_bytes` what the scratch disk takes on the host's disk.
    """

    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes of the disk that holds the environments: free, and used by environment id."""

    free: int
    of_environments: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """A TCP port of the guest's 127.0.0.1 that is reachable on the server's 127.0.0.1."""

    port: int
    local_port: int

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
