# SPDX-License-Identifier: Apache-2.0
"""The open questions of one environment, and how many calls can put them. Used by `questions`.

Connections wait in `ask`; calls `take` questions, and `settle` them or give them back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from waggle.domain.network.questions import NOBODY, SILENCE, Answer, Book, Question


@dataclass(eq=False, slots=True)
class OpenQuestion:
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
        self._open: dict[int, OpenQuestion] = {}
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

    def _entry(self, question: Question, now: float) -> OpenQuestion:
        if question.number not in self._open:
            if not self._open:
                self._since = now
            self._open[question.number] = OpenQuestion(question)
            self._notify()
        return self._open[question.number]

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def take(self) -> OpenQuestion:
        """Wait for a question that nobody puts, and take it, with a scope that ends the putting."""
        while True:
            for entry in self._open.values():
                if entry.scope is None:
                    entry.scope = anyio.CancelScope()
                    return entry
            await self.changed()

    def give_back(self, entry: OpenQuestion) -> None:
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
