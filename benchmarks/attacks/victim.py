# SPDX-License-Identifier: Apache-2.0
"""The other owner's view during an attack, and the state of the server's process meanwhile.

Four threads: one lists the tools, one executes, one polls the public liveness page, one reads the
memory. They use bare sockets, so that they need hardly any CPU time.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.attacks import LIST, Target, memory

LIST_PAUSE, LIVE_PAUSE, MEMORY_PAUSE, EXECUTE_PAUSE = 0.02, 0.005, 0.05, 0.2
PATIENCE = 120.0
"""Seconds after which an answer counts as missing."""
NANO = 1e-9


@dataclass
class Seen:
    """The measured values. Seconds and MiB."""

    lists: list[float] = field(default_factory=list[float])
    refused: int = 0
    executes: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])
    """Why executes did not answer."""
    stall: float = 0.0
    """The longest wait for the liveness page."""
    computed: float = 0.0
    """The most CPU time of the loop's thread during a request for that page."""
    peak: float = 0.0

    def p99(self) -> float:
        ordered = sorted(self.lists)
        return ordered[int(len(ordered) * 0.99)] if ordered else float("inf")


@dataclass(frozen=True)
class Victim:
    """The other owner's token, and the body of its call, whose answer contains `alive`."""

    target: Target
    pid: int
    call: bytes


class Observer:
    """Measures for the length of a `with` block."""

    def __init__(self, victim: Victim) -> None:
        self.seen = Seen()
        self._victim = victim
        self._over = threading.Event()
        looks = (self._lists, self._executes, self._lives, self._remembers)
        self._threads = [threading.Thread(target=look) for look in looks]

    def __enter__(self) -> Seen:
        for thread in self._threads:
            thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _request(self, body: bytes) -> tuple[int, bytes]:
        """Send a request on a new connection, like a new client; status 0 if there is no answer."""
        target = self._victim.target
        try:
            with target.connect() as line:
                line.settimeout(PATIENCE)
                line.sendall(target.head(len(body)) + body)
                answer = http.client.HTTPResponse(line)
                answer.begin()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, type(error).__name__.encode()

    def _lists(self) -> None:
        while not self._over.wait(LIST_PAUSE):
            began = time.perf_counter()
            status, _ = self._request(LIST)
            self.seen.lists.append(time.perf_counter() - began)
            self.seen.refused += status != 200

    def _executes(self) -> None:
        while not self._over.wait(EXECUTE_PAUSE):
            began = time.perf_counter()
            status, body = self._request(self._victim.call)
            self.seen.executes.append(time.perf_counter() - began)
            if status != 200 or b"alive" not in body or b'"isError":true' in body:
                self.seen.failures.append(f"{status} {body[:300]!r}")

    def _lives(self) -> None:
        target, seen, pid = self._victim.target, self.seen, self._victim.pid
        line = http.client.HTTPConnection(*target.address, timeout=PATIENCE)
        with contextlib.closing(line):
            while not self._over.wait(LIVE_PAUSE):
                began, computed = time.perf_counter(), _computed(pid)
                try:
                    line.request("GET", "/healthz")
                    line.getresponse().read()
                except (OSError, http.client.HTTPException):
                    line.close()
                seen.stall = max(seen.stall, time.perf_counter() - began)
                seen.computed = max(seen.computed, _computed(pid) - computed)

    def _remembers(self) -> None:
        while not self._over.wait(MEMORY_PAUSE):
            with contextlib.suppress(OSError, AssertionError):
                self.seen.peak = max(self.seen.peak, memory(self._victim.pid))


def _computed(pid: int) -> float:
    """Return the CPU seconds of the process's first thread, which runs its event loop."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) * NANO
    except (OSError, ValueError, IndexError):
        return 0.0
