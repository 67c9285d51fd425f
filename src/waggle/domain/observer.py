# SPDX-License-Identifier: Apache-2.0
"""Observers of the server's events, and small protocols that services share.

`waggle.mcp` reports calls, `waggle.service` reports environments, the composition root reports
egress; the observers in `waggle.infra.observe` are metrics and the audit log. An observer returns
at once and never raises. The protocols are time, ids and the store of environments; `release` frees
what an error holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, cast

from waggle.domain.access import Owner
from waggle.domain.environment import Environment
from waggle.domain.network.decisions import Decision

OK = "ok"
CANCELLED = "cancelled"
NO_TOOL = "unknown_tool"
CALL_TOOL = "tools/call"


@dataclass(frozen=True, slots=True)
class Call:
    """A client's request that has ended: a tool call, or one for resources or prompts.

    `outcome` is `ok`, `cancelled` or the code of an error; `tool` is an existing tool or
    `unknown_tool`, and empty when `method` is not `tools/call`. `environment_id` is well-formed or
    None. `program` is the code or command as the client sent it: hostile, and of any size or type.
    """

    owner: Owner
    tool: str
    outcome: str
    seconds: float
    environment_id: str | None = None
    session: str = "none"
    """How it arrived: `stdio`, `session` (with an id) or `none` (HTTP without one)."""
    address: str | None = None
    program: object = None
    method: str = CALL_TOOL
    """The protocol's name of the request, one of the few that waggle answers."""


@dataclass(frozen=True, slots=True)
class Egress:
    """A connection of a guest that has ended or, if its decision says so, was refused.

    The guest chose host and port. Bytes are those sent to the server and received.
    """

    owner: Owner
    environment_id: str
    decision: Decision
    seconds: float = 0.0
    sent: int = 0
    received: int = 0


class Observer:
    """An observer that ignores every event; the base class of all others."""

    def call_ended(self, call: Call) -> None:
        """A tool call or a request for resources or a prompt ended, in whatever way."""

    def environment_created(self, seconds: float) -> None:
        """An environment runs, `seconds` after it was requested."""

    def create_failed(self, code: str) -> None:
        """An environment was not created; `code` is `cancelled` or the code of an error."""

    def environment_reaped(self) -> None:
        """An environment was removed because it was not used."""

    def connection_ended(self, egress: Egress) -> None:
        """A connection of a guest to the network has ended, or was refused."""


class Observers(Observer):
    """Passes every event to several observers, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def call_ended(self, call: Call) -> None:
        """Pass the event on."""
        for observer in self._observers:
            observer.call_ended(call)

    def environment_created(self, seconds: float) -> None:
        """Pass the event on."""
        for observer in self._observers:
            observer.environment_created(seconds)

    def create_failed(self, code: str) -> None:
        """Pass the event on."""
        for observer in self._observers:
            observer.create_failed(code)

    def environment_reaped(self) -> None:
        """Pass the event on."""
        for observer in self._observers:
            observer.environment_reaped()

    def connection_ended(self, egress: Egress) -> None:
        """Pass the event on."""
        for observer in self._observers:
            observer.connection_ended(egress)


Clock = Callable[[], datetime]
"""Returns the current time, with a time zone. Injected, so that tests control time.

Idle times are measured with it, so it should not jump when the system clock is set: the real one is
the wall clock at the start of the server plus the monotonic time since.
"""

NewId = Callable[[], str]
"""Returns a fresh environment id (a UUID)."""


class EnvironmentStore(Protocol):
    """Remembers environments across restarts. Every call is durable when it returns."""

    async def save(self, environment: Environment) -> None:
        """Insert or replace the record with this id."""
        ...

    async def get(self, environment_id: str) -> Environment | None:
        """Return the record with this id, also a destroyed one while it is remembered."""
        ...

    async def unfinished(self) -> Sequence[Environment]:
        """Return the records that are not destroyed: what an earlier server left, at a start."""
        ...

    async def aclose(self) -> None:
        """Flush and close. Idempotent."""
        ...


def release(error: BaseException) -> None:
    """Drop the tracebacks of `error` and of all its causes, once nothing will log them.

    A traceback holds the frames that the error passed, and so what they worked on, such as an
    upload. A future or a frame that holds the error makes it a cycle, which the collector frees
    late.
    """
    seen, left = set[int](), [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        if isinstance(one, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", one).exceptions
        left += filter(None, (one.__cause__, one.__context__))
