# SPDX-License-Identifier: Apache-2.0
"""Two agents at sockets of one machine, asked in turns until it is sure which answers first."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from benchmarks.figures import Comparison, compare, is_surely_at_most

_WARM_UP = 10
_ROUNDS, _MOST_ROUNDS = 300, 6_000
"""After so many it may be sure, and looks again; after so many it ends."""


def compare_answers(ours: tuple[Path, bytes], theirs: tuple[Path, bytes]) -> Comparison:
    """Compare how long answers take; each side is a socket's path and a request.

    On a busy host both take longer, and times spread: then more rounds are needed to be sure.
    """
    with _dialled(ours[0]) as our_wire, _dialled(theirs[0]) as their_wire:
        sides = [(our_wire, ours[1]), (their_wire, theirs[1])]
        times: list[list[float]] = [[], []]
        for count in range(-_WARM_UP, _MOST_ROUNDS):
            for side in (0, 1) if count % 2 else (1, 0):
                taken = _answered(*sides[side])
                if count >= 0:
                    times[side].append(taken)
            if len(times[0]) % _ROUNDS == 0 and is_surely_at_most(1.0, *times):
                break
    return compare(*times)


def _dialled(path: Path) -> socket.socket:
    wire = socket.socket(socket.AF_UNIX)
    wire.settimeout(30)
    wire.connect(str(path))
    return wire


def _answered(wire: socket.socket, said: bytes) -> float:
    """Return how many seconds an answer took: of ours a `result`, of QEMU's a `return`."""
    began, read = time.perf_counter(), b""
    wire.sendall(said)
    while not (read.endswith(b"}\n") and (b'"result"' in read or b'"return"' in read)):
        read += wire.recv(4096)  # an agent begins with an empty line, or notifications
    return time.perf_counter() - began
