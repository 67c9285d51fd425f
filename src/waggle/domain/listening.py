# SPDX-License-Identifier: Apache-2.0
"""Which programs listen on which ports in a guest: how its shell is asked, and the answer. Pure.

Asked by `waggle.service.local.diagnostician` when a program says that its address is in use. Needs
no more than `sh` and `awk`. The guest answers: it may lie, which misleads nobody but its owner.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
