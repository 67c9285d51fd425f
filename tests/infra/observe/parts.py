# SPDX-License-Identifier: Apache-2.0
"""A call and connections to report, and seconds that pass when a test says so."""

from __future__ import annotations

from collections.abc import Callable

from waggle.domain.access import Owner
from waggle.domain.network.decisions import Decision
from waggle.domain.observer import Call, Egress
from waggle.infra.observe.audit import SECONDS


class Seconds:
    """A scheduler that runs its calls when the test says that a second has passed."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def __call__(self, seconds: float, do: Callable[[], None]) -> None:
        assert seconds == SECONDS
        self.due.append(do)

    def pass_one(self) -> None:
        due, self.due = self.due, []
        for do in due:
            do()


CALL = Call(
    owner=Owner("ann"),
    tool="execute",
    outcome="ok",
    seconds=0.1234,
    environment_id="00000000-0000-4000-8000-000000000001",
    session="session",
    address="127.0.0.1",
    program="print(1)",
)

DENIED = Egress(
    CALL.owner,
    "00000000-0000-4000-8000-000000000001",
    Decision("10.0.0.9", 443, "private", "it is a private address"),
)
ALLOWED = Egress(
    CALL.owner,
    "00000000-0000-4000-8000-000000000001",
    Decision("a.test", 443, "allowed", "", "*.test", "8.8.8.8"),
    seconds=1.5,
    sent=100,
    received=2_000,
)
