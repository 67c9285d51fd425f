# SPDX-License-Identifier: Apache-2.0
"""The tests' name server, behind a gate: lookups block in their threads until it opens."""

from __future__ import annotations

import threading
import time
from ipaddress import ip_address

from waggle.infra.net.policy import Address


class Gate:
    """A lookup that blocks like the C library's resolver; `questions` has the names in order."""

    def __init__(self, address: str = "192.0.2.1", *, slow: float = 0.0) -> None:
        """`slow` is the seconds that an answer takes once the gate is open."""
        self.questions: list[str] = []
        self.error: OSError | None = None
        self.dead: set[str] = set()
        """Names that are answered only when the test ends."""
        self._address = ip_address(address)
        self._slow = slow
        self._gate = threading.Event()
        self._end = threading.Event()

    def open(self) -> None:
        self._gate.set()

    def end(self) -> None:
        """Answer all questions that are still open."""
        self._gate.set()
        self._end.set()

    def __call__(self, name: str) -> list[Address]:
        self.questions.append(name)
        assert (self._end if name in self.dead else self._gate).wait(20)
        time.sleep(self._slow)
        if self.error is not None:
            raise self.error
        return [self._address]
