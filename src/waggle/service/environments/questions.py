# SPDX-License-Identifier: Apache-2.0
"""What people are asked about connections: proxies ask, calls in progress put it to their clients.

The proxy of an environment awaits `ask`. A call that waits for a program there runs `serve`
meanwhile (`waggle.mcp.asking`), which takes open questions and puts them to the client's person; of
several calls each takes others. Whoever serves an environment has checked its owner. The book of
`domain.network.questions` bounds how much is asked. Knows nothing of MCP and of proxies.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import structlog

from waggle.domain.errors import WaggleError
from waggle.domain.network.questions import NOBODY, SILENCE, Answer, Book, Question
from waggle.domain.network.rules import Rule

log = structlog.get_logger(__name__)

GRACE_SECONDS = 0.3
"""How long a connection waits for a call that can ask: a program may be faster than its call."""
Put = Callable[[Question], Awaitable[Answer | None]]
"""Puts a question to a person. None: nobody answered. Is cancelled when there is no more time, or
nothing waits for the answer any more. Raises CannotAsk."""
Keep = Callable[[str, Rule], Awaitable[None]]
"""Adds a rule for an environment, by its id, or for all of its owner's. Raises WaggleError or
OSError."""


class CannotAsk(Exception):
    """This call cannot put questions any more; another one may."""


@dataclass(eq=False, slots=True)
class _Open:
    """An open question. `waiting` counts the connections, `scope` is of the one who puts it."""

    question: Question
    settled: anyio.Event = field(default_factory=anyio.Event)
    reason: str = ""
    waiting: int = 0
    scope: anyio.CancelScope | None = None


class Desk:
    """The questions of one environment, and the calls that can put them."""

    def __init__(self, environment_id: str, clock: Callable[[], float], grace: float) -> None:
        self._grace = grace
        self._book = Book(environment_id)
        self._clock = clock
        self._open: dict[int, _Open] = {}
        self._changed = anyio.Event()
        self._since = 0.0
        self._held = 0.0
        self.serving = 0
        """The calls that can put questions now."""

    @property
    def is_quiet(self) -> bool:
        """Whether no question is open."""
        return not self._open

    @property
    def held(self) -> float:
        """The seconds so far in which a question was open."""
        return self._held + (self._clock() - self._since if self._open else 0.0)

    async def ask(self, host: str, port: int) -> str:
        """Wait for the answer about a connection; see `Questions.ask`."""
        if (known := self._book.known(host, port, self._clock())) is not None:
            return known
        if not await self._is_served():
            return NOBODY
        now = self._clock()
        question = self._book.ask(host, port, now)
        if isinstance(question, str):
            return question
        entry = self._entry(question, now)
        entry.waiting += 1
        try:
            await entry.settled.wait()
        finally:
            entry.waiting -= 1
            if not entry.waiting:
                self._book.withdraw(question)
                self.settle(question, "")
        return entry.reason

    async def _is_served(self) -> bool:
        """Whether a call can put questions, now or soon: one may be about to wait."""
        with anyio.move_on_after(self._grace):
            while not self.serving:
                await self.changed()
        return self.serving > 0

    def enter(self) -> None:
        """Note that a call can put questions."""
        self.serving += 1
        self._notify()

    def _entry(self, question: Question, now: float) -> _Open:
        if question.number not in self._open:
            if not self._open:
                self._since = now
            self._open[question.number] = _Open(question)
            self._notify()
        return self._open[question.number]

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def take(self) -> _Open:
        """Wait for a question that nobody puts, and take it, with a scope that ends the putting."""
        while True:
            for entry in self._open.values():
                if entry.scope is None:
                    entry.scope = anyio.CancelScope()
                    return entry
            await self.changed()

    def give_back(self, entry: _Open) -> None:
        """Let another call put it: this one cannot any more."""
        entry.scope = None
        self._notify()

    async def changed(self) -> None:
        """Wait until a question comes or goes."""
        await self._changed.wait()

    def settle(self, question: Question, reason: str) -> None:
        """End the wait of the connections. Idempotent."""
        entry = self._open.pop(question.number, None)
        if entry is None:
            return
        if not self._open:
            self._held += self._clock() - self._since
        entry.reason = reason
        entry.settled.set()
        if entry.scope is not None:
            entry.scope.cancel()
        self._notify()

    def answered(self, question: Question, answer: Answer) -> None:
        """Note an answer, which may be late."""
        self.settle(question, self._book.answer(question, answer, self._clock()))

    def silence(self) -> None:
        """Refuse all open questions, since nobody answers."""
        for question in self._book.silence(self._clock()):
            self.settle(question, SILENCE)

    def leave(self) -> None:
        """Note that a call cannot put questions any more. After the last one, all are refused."""
        self.serving -= 1
        if not self.serving:
            self.close()

    def close(self) -> None:
        """Refuse all open questions."""
        for entry in [*self._open.values()]:
            self._book.withdraw(entry.question)
            self.settle(entry.question, NOBODY)


class Questions:
    """The questions of all environments of a server."""

    def __init__(
        self,
        *,
        seconds: float = 60.0,
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
        self._clock = clock
        self._desks: dict[str, Desk] = {}

    def keep(self, allow: Keep, approve: Keep | None = None) -> None:
        """Keep answers as rules: for the environment by `allow`, for always by `approve`, too.

        Without one of them, nobody is offered that answer.
        """
        self._allow, self._approve = allow, approve

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
        return await self.desk(environment_id).ask(host.removesuffix("."), port)

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

    async def _put(self, desk: Desk, entry: _Open, put: Put) -> None:
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
