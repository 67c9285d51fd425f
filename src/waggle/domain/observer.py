# SPDX-License-Identifier: Apache-2.0
"""What happens in the server, told to whoever keeps count: metrics and the audit log.

Told by `waggle.mcp` (calls), `waggle.service` (environments) and the composition root (egress);
`waggle.infra.observe` listens. A listener returns at once and never raises.

Small protocols shared by services: time, ids and the record of environments.

What an error holds besides its words, and how to let go of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, cast

from waggle.domain.access import Owner
from waggle.domain.environment import Environment

OK = "ok"
CANCELLED = "cancelled"
NO_TOOL = "unknown_tool"
CALL_TOOL = "tools/call"


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a client that has ended: a tool call, or something about resources or prompts.

    `outcome` is `ok`, `cancelled` or the code of an error; `tool` is one that exists, or
    `unknown_tool`, and empty when `method` is not `tools/call`. `environment_id` is well-formed or
    None. `program` is the code or command as the client sent it, hostile and of any size or type.
    """

    owner: Owner
    tool: str
    outcome: str
    seconds: float
    environment_id: str | None = None
    session: str = "none"
    """How it came: `stdio`, `session` (with an id) or `none` (HTTP without one)."""
    address: str | None = None
    program: object = None
    method: str = CALL_TOOL
    """The protocol's name of the request: one of a few that are ours to answer."""


class Observer:
    """Listens to nothing; the base of those that do."""

    def call_ended(self, call: Call) -> None:
        """A tool call or a request for resources or a prompt ended, however it did."""

    def environment_created(self, seconds: float) -> None:
        """An environment runs, so long after it was asked for."""

    def create_failed(self, code: str) -> None:
        """One was not made: `cancelled` or the code of an error."""

    def environment_reaped(self) -> None:
        """One was removed because nobody used it."""

    def egress_denied(self, why: str) -> None:
        """A guest was kept from an address; `why` is the code of a verdict."""


class Observers(Observer):
    """Passes everything on to several, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def call_ended(self, call: Call) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.call_ended(call)

    def environment_created(self, seconds: float) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.environment_created(seconds)

    def create_failed(self, code: str) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.create_failed(code)

    def environment_reaped(self) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.environment_reaped()

    def egress_denied(self, why: str) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.egress_denied(why)


Clock = Callable[[], datetime]
"""Now, with a time zone. Injected, so that tests own time.

Idle times are measured with it, so it should not jump when the system clock is set: the real one
is the wall clock at the start of the server plus the monotonic time since.
"""

NewId = Callable[[], str]
"""A fresh environment id (a UUID)."""


class EnvironmentStore(Protocol):
    """Remembers environments across restarts. Every call is durable when it returns."""

    async def save(self, environment: Environment) -> None:
        """Insert or replace the record with this id."""
        ...

    async def get(self, environment_id: str) -> Environment | None:
        """The record with this id, destroyed ones included while they are remembered."""
        ...

    async def unfinished(self) -> Sequence[Environment]:
        """All records that are not destroyed: after a restart, what an earlier server left."""
        ...

    async def aclose(self) -> None:
        """Flush and close. Idempotent."""
        ...


def release(error: BaseException) -> None:
    """Drop the traces of `error` and of all that led to it, once nobody will log them.

    Traces hold the frames that the error passed, so all that these worked on, such as an upload;
    a future or a frame that holds the error makes it a cycle, and the collector comes late.
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
