# SPDX-License-Identifier: Apache-2.0
"""What a guest may reach. Decided per environment at creation, enforced by the egress proxy.

What an environment takes of the machine it runs on, and which of its ports can be reached.

Which programs listen on which ports in a guest: how its shell is asked, and the answer. Pure.

Asked by `waggle.service.local.diagnostician` when a program says that its address is in use. Needs
no more than `sh` and `awk`. The guest answers: it may lie, which misleads nobody but its owner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from waggle.domain.errors import InvalidArgument


class NetworkPolicy(StrEnum):
    """What a guest may reach.

    `NONE`: nothing at all. `PUBLIC`: the internet through the host-side proxy, never the host,
    loopback, private, link-local or metadata addresses.
    """

    NONE = "none"
    PUBLIC = "public"


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


MAX_LISTENERS = 20
_MAX_ANSWER = 8_192
_ADDRESS_IN_USE = re.compile(r"[Aa]ddress already in use|EADDRINUSE")
_LINE = re.compile(r"(\d{1,7}) ([0-9A-F]{4}) (.+)")
_TAKEN_BY_US = re.compile(r"\S*dropbear\b")
"""The way to the server itself: nothing that an agent could end."""
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
"""The command, for root: others do not see whose a socket is."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A program that listens on a TCP port. `command` is its words."""

    port: int
    pid: int
    command: str


def is_asked_for(said: str) -> bool:
    """Whether a program said that the address it wants is taken."""
    return _ADDRESS_IN_USE.search(said) is not None


def parse_listeners(text: str) -> tuple[Listener, ...]:
    """The answer, lowest port first; what is not understood is left out."""
    found: set[tuple[int, int, str]] = set()
    for line in text[:_MAX_ANSWER].splitlines():
        match = _LINE.fullmatch(line.rstrip())
        if match and not _TAKEN_BY_US.match(match[3]):
            found.add((int(match[2], 16), int(match[1]), match[3]))
    return tuple(Listener(*each) for each in sorted(found)[:MAX_LISTENERS])
