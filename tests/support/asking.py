# SPDX-License-Identifier: Apache-2.0
"""Programs of fake guests that connect to hosts, and persons who are asked about it.

`connecting(setup)` gives every guest the program `connect HOST[:PORT]...`: it asks as its proxy
would and prints `HOST:PORT yes`, or why not; `hang` in place of a host waits for the guest's
`release`. A `Person` answers the forms of one client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import mcp_types
from mcp.client.session import ClientRequestContext
from tests.support.guest import FakeGuest
from tests.support.server import MODERN, Setup

from waggle.domain.network.rules import Rule
from waggle.domain.programs import Command, ExecutionResult
from waggle.service.environments.questions import Questions


@dataclass
class Rules:
    """What answers have allowed, by the ids of environments: for these, and for always."""

    allowed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    approved: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    async def allow(self, environment_id: str, rule: Rule) -> None:
        self.allowed.append((environment_id, str(rule)))

    async def approve(self, environment_id: str, rule: Rule) -> None:
        self.approved.append((environment_id, str(rule)))


@dataclass
class Person:
    """Answers in turn what `answers` says, after `before`; None is never. Keeps what was asked."""

    answers: Sequence[str | None] = ("once",)
    messages: list[str] = field(default_factory=list[str])
    offered: list[list[str]] = field(default_factory=list[list[str]])
    asked: anyio.Event = field(default_factory=anyio.Event)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    before: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint

    async def __call__(
        self,
        context: ClientRequestContext,
        params: mcp_types.ElicitRequestParams,
    ) -> mcp_types.ElicitResult:
        assert isinstance(params, mcp_types.ElicitRequestFormParams)
        self.messages.append(params.message)
        self.offered.append(params.requested_schema["properties"]["answer"]["enum"])
        self.asked.set()
        answer = self.answers[min(len(self.messages), len(self.answers)) - 1]
        await self.before()
        if answer is None:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if answer == "decline" or answer == "cancel":  # noqa: PLR1714 (pyright narrows these)
            return mcp_types.ElicitResult(action=answer)
        return mcp_types.ElicitResult(action="accept", content={"answer": answer})


def connecting(setup: Setup, questions: Questions, program: str = "connect") -> Setup:
    """Return the setup with these questions, whose guests have the program."""

    def prepare(guest: FakeGuest) -> None:
        async def connect(command: Command, into: Any) -> ExecutionResult:
            for place in command.argv[1:]:
                if place == "hang":
                    await guest.release.wait()
                    continue
                host, _, port = place.partition(":")
                number = int(port or 443)
                why = await questions.ask(guest.environment.id, host, number)
                into.stdout.feed(f"{host}:{number} {why or 'yes'}\n".encode())
            shown = into.stdout.output(), into.stderr.output()
            return ExecutionResult(*shown, 0, None, timed_out=False, duration=0.5)

        guest.programs[program] = connect

    setup.questions = questions
    setup.host.prepare = prepare
    return setup


@dataclass
class Request:
    """As much of a request of 2026-07-28 as `Held` looks at."""

    request_state: str | None = None
    input_responses: mcp_types.InputResponses | None = None
    protocol_version: str = MODERN
    client_capabilities: mcp_types.ClientCapabilities = field(
        default_factory=lambda: mcp_types.ClientCapabilities(
            elicitation=mcp_types.ElicitationCapability()
        )
    )
    request_context: object = None
    mcp_server: object = None
