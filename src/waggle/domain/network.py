# SPDX-License-Identifier: Apache-2.0
"""A guest's network policy, exposed ports and listeners, and its machine's use of the host. Pure.

The policy is chosen when an environment is created and enforced by the egress proxy.
`waggle.service.local.diagnostician` asks for listeners when a program reports that its address is
in use: it runs QUESTION in the guest, which needs only `sh` and `awk`, and parses the answer here.
The guest may lie in it, which misleads only its owner.
"""

from __future__ import annotations

import re
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


MAX_LISTENERS = 20
_MAX_ANSWER = 8_192
_ADDRESS_IN_USE = re.compile(r"[Aa]ddress already in use|EADDRINUSE")
_LINE = re.compile(r"(\d{1,7}) ([0-9A-F]{4}) (.+)")
_TAKEN_BY_US = re.compile(r"\S*dropbear\b")
"""The kit's SSH server, through which the server reaches the guest: an agent cannot end it."""
_ASK = r"""
ls -l /proc/[0-9]*/fd 2>/dev/null | awk '
BEGIN {
  split("/proc/net/tcp /proc/net/tcp6", tables, " ")
  for (t in tables) while ((getline line < tables[t]) > 0) {
    split(line, field, " ")
    if (field[4] == "0A") { n = split(field[2], at, ":"); port[field[10]] = at[n] }
  }
}
/^\/proc\// { split($1, part, "/"); pid = part[3] }
match($0, /socket:\[[0-9]+/) {
  inode = substr($0, RSTART + 8, RLENGTH - 8)
  if (inode in port && !seen[pid, port[inode]]++) print pid, port[inode]
}' | while read -r pid port; do
  printf '%s %s %s\n' "$pid" "$port" "$(tr '\0\n' '  ' <"/proc/$pid/cmdline" | cut -c 1-200)"
done
"""
QUESTION = ("sh", "-c", _ASK)
"""The command; it needs root, because other users do not see which process owns a socket."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A program that listens on a TCP port. `command` is its words."""

    port: int
    pid: int
    command: str


def is_asked_for(said: str) -> bool:
    """Whether a program printed that its address is already in use."""
    return _ADDRESS_IN_USE.search(said) is not None


def parse_listeners(text: str) -> tuple[Listener, ...]:
    """Return the listeners in the answer, lowest port first; other lines are skipped."""
    found: set[tuple[int, int, str]] = set()
    for line in text[:_MAX_ANSWER].splitlines():
        match = _LINE.fullmatch(line.rstrip())
        if match and not _TAKEN_BY_US.match(match[3]):
            found.add((int(match[2], 16), int(match[1]), match[3]))
    return tuple(Listener(*each) for each in sorted(found)[:MAX_LISTENERS])
