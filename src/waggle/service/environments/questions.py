# SPDX-License-Identifier: Apache-2.0
"""What people are asked about connections: proxies ask, calls in progress put it to their clients.

The proxy of an environment awaits `ask`. A call that waits for a program there runs `serve`
meanwhile (`waggle.mcp.asking`), which takes open questions and puts them to the client's person; of
several calls each takes others. Whoever serves an environment has checked its owner. The book of
`domain.network.questions` bounds how much is asked. Knows nothing of MCP and of proxies.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import structlog

from waggle.domain.errors import WaggleError
from waggle.domain.network.judging import RuleTable
from waggle.domain.network.questions import (
    ALLOWED,
    NEVER,
    Answer,
    Question,
    approved,
)
from waggle.domain.network.rules import Rule
from waggle.service.environments.desk import Desk, OpenQuestion

log = structlog.get_logger(__name__)

GRACE_SECONDS = 0.3
"""How long a connection waits for a call that can ask: a program may be faster than its call."""
Put = Callable[[Question], Awaitable[Answer | None]]
"""Puts a question to a person. None: nobody answered. Is cancelled when there is no more time, or
nothing waits for the answer any more. Raises CannotAsk."""
Keep = Callable[[str, Rule], Awaitable[None]]
"""Adds a rule for an environment, by its id, or for all of its owner's. Raises WaggleError or
OSError."""


Approved = Callable[[str], Sequence[Rule]]
"""Returns the rules that hold for always in an environment, by its id."""


def _nothing(_environment_id: str) -> Sequence[Rule]:
    return ()


class CannotAsk(Exception):
    """This call cannot put questions any more; another one may."""


class Questions:
    """The questions of all environments of a server."""

    def __init__(
        self,
        *,
        seconds: float = 45.0,
        allow: Keep | None = None,
        approve: Keep | None = None,
        clock: Callable[[], float] = time.monotonic,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`seconds` are for one answer. `allow` and `approve` are as `keep` has them."""
        self.seconds = seconds
        self._grace = grace
        self._allow = allow
        self._approve = approve
        self._approved: Approved = _nothing
        self._clock = clock
        self._desks: dict[str, Desk] = {}

    def keep(self, allow: Keep, approve: Keep | None = None, approved: Approved = _nothing) -> None:
        """Keep answers as rules: for the environment by `allow`, for always by `approve`, too.

        Without one of them, nobody is offered that answer. `approved` returns what holds for
        always, which is not asked about.
        """
        self._allow, self._approve, self._approved = allow, approve, approved

    def desk(self, environment_id: str) -> Desk:
        """Return the desk of an environment, which lasts until `forget`."""
        desk = self._desks.get(environment_id)
        if desk is None:
            desk = self._desks[environment_id] = Desk(environment_id, self._clock, self._grace)
        return desk

    def forget(self, environment_id: str) -> None:
        """Drop what belongs to an environment, which is destroyed. Refuses its open questions."""
        if desk := self._desks.pop(environment_id, None):
            desk.close()

    async def ask(self, environment_id: str, host: str, port: int) -> str:
        """Ask whether a connection may be made; return why not, or nothing if it may.

        Answers at once if the answer is known, and soon if no call can ask a person. Else
        waits, for each question at most `seconds` from when it is put. Cancelling withdraws it,
        unless other connections wait for the same one.
        """
        host, rules = host.removesuffix("."), self._approved(environment_id)
        if rules and (allowed := approved(RuleTable(rules), host, port)) is not None:
            return ALLOWED if allowed else NEVER
        return await self.desk(environment_id).ask(host, port)

    def answers(self, question: Question) -> tuple[Answer, ...]:
        """Return the answers that a person may give."""
        if question.rule is None or self._allow is None:
            return (Answer.ONCE, Answer.NO)
        always = () if self._approve is None else (Answer.ALWAYS,)
        return (Answer.ONCE, Answer.ENVIRONMENT, *always, Answer.NO)

    async def serve(self, environment_id: str, put: Put, at_once: int = 1) -> None:
        """Put the environment's questions, `at_once` side by side.

        Until cancelled, or the call cannot ask any more.
        """
        desk = self.desk(environment_id)
        desk.enter()
        try:
            async with anyio.create_task_group() as group:
                for _ in range(at_once):
                    group.start_soon(self._serve, desk, put)
        finally:
            desk.leave()

    async def _serve(self, desk: Desk, put: Put) -> None:
        while True:
            entry = await desk.take()
            try:
                await self._put(desk, entry, put)
            except CannotAsk:
                return
            finally:
                desk.give_back(entry)

    async def _put(self, desk: Desk, entry: OpenQuestion, put: Put) -> None:
        scope = entry.scope
        if scope is None:
            return
        answer: Answer | None = None
        with scope, anyio.move_on_after(self.seconds):
            answer = await put(entry.question)
        if answer is not None:
            await self._decide(desk, entry.question, answer)
        elif not entry.settled.is_set():
            desk.silence()

    async def decide(self, question: Question, answer: Answer) -> None:
        """Take an answer for a question that may be over: what the person wants counts later, too.

        Finishes when cancelled. An answer that is not among `answers` is a no.
        """
        if (desk := self._desks.get(question.environment_id)) is not None:
            await self._decide(desk, question, answer)

    async def _decide(self, desk: Desk, question: Question, answer: Answer) -> None:
        if answer not in self.answers(question):
            answer = Answer.NO
        log.info(
            "connection_asked",
            environment=question.environment_id,
            place=question.place,
            answer=str(answer),
        )
        with anyio.CancelScope(shield=True):
            try:
                await self._kept(question, answer)
            except (WaggleError, OSError) as error:  # then it holds once
                log.warning("answer_not_kept", place=question.place, error=str(error))
        desk.answered(question, answer)

    async def _kept(self, question: Question, answer: Answer) -> None:
        rule = question.rule
        if rule is None or answer not in (Answer.ENVIRONMENT, Answer.ALWAYS):
            return
        if answer is Answer.ALWAYS and self._approve is not None:
            await self._approve(question.environment_id, rule)
        if self._allow is not None:
            await self._allow(question.environment_id, rule)
