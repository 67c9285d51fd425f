# SPDX-License-Identifier: Apache-2.0
"""Ranges of ports for the servers of all test processes, which never meet while both run."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

PORTS_PER_SERVER = 20
_THOUSANDS = 11
_BLOCKS = 50
_blocks = itertools.cycle(range(_BLOCKS))


class Holder(Protocol):
    """A server that uses its ports while it runs."""

    ports: range

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        ...


_holders = WeakSet[Holder]()


def hold(server: Holder) -> None:
    """Keep a server's ports from others while it runs."""
    _holders.add(server)


def _own_thousand() -> tuple[int, socket.socket | None]:
    """Reserve a number among the test processes in this network; return it and its socket."""
    for number in range(_THOUSANDS):
        line = socket.socket(socket.AF_UNIX)
        try:
            line.bind(f"\0waggle-tests-{number}")
        except OSError:
            line.close()
        else:
            return number, line
    return os.getpid() % _THOUSANDS, None


_thousand, _holder = _own_thousand()


def next_ports(count: int = PORTS_PER_SERVER) -> range:
    """Return a range that no running server of these tests has: below those of tests.support.vm.

    A server of a whole session runs while others have come round to its range.
    """
    taken = {port for holder in _holders if holder.is_running for port in holder.ports}
    own = 12_000 + _thousand * 1_000
    for block in itertools.islice(_blocks, 2 * _BLOCKS):
        base = own + block * PORTS_PER_SERVER
        if base + count <= own + 1_000 and taken.isdisjoint(range(base, base + count)):
            for _ in range((count - 1) // PORTS_PER_SERVER):
                next(_blocks)
            return range(base, base + count)
    raise AssertionError(f"{len(taken)} ports of 1,000 are taken: no {count} are left in a row")


def listening() -> Iterator[int]:
    """Yield the TCP ports of this network that have a listener."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                yield int(words[1].rpartition(":")[2], 16)
