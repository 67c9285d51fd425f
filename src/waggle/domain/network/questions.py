# SPDX-License-Identifier: Apache-2.0
"""The questions that a person is asked about one environment's connections, as book-keeping. Pure.

`service.environments.questions` keeps one book for each environment and brings the time, in
seconds. The guest chooses hosts, ports and how often it tries: the same destination is one
question, few are open at once, and few are asked in a time. An answer of the book is a text: why
not, or nothing if the connection is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from waggle.domain.errors import InvalidArgument
from waggle.domain.network.judging import RuleTable
from waggle.domain.network.rules import Action, Rule, parse_rule

MAX_OPEN: Final = 8
"""The most questions that are open at once."""
REMEMBERED_SECONDS: Final = 60.0
"""How long an answer that makes no rule holds, and how long nothing is asked after silence."""
AT_ONCE: Final = 20
"""The questions that may be asked one after the other; then one in EVERY_SECONDS."""
EVERY_SECONDS: Final = 30.0

ALLOWED: Final = ""
NOBODY: Final = "no rule decides about it, and no call in progress can ask a person"
SAID_NO: Final = "a person was asked and said no"
NEVER: Final = "what was approved for always denies it"
SILENCE: Final = "a person was asked and did not answer"
TOO_MANY: Final = f"a person is being asked about {MAX_OPEN} others"
TOO_OFTEN: Final = "a person was asked too often in the last minutes"


class Answer(StrEnum):
    """What a person says: allow it once, for this environment, for all that come, or not."""

    ONCE = "once"
    ENVIRONMENT = "environment"
    ALWAYS = "always"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Question:
    """May the environment connect to this host and port? `host` is printable ASCII."""

    number: int
    environment_id: str
    host: str
    port: int

    @property
    def place(self) -> str:
        """The destination as `host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def rule(self) -> Rule | None:
        """The rule that allows exactly this, if there can be one."""
        try:
            return parse_rule(self.place)
        except InvalidArgument:
            return None


def approved(table: RuleTable, host: str, port: int) -> bool | None:
    """Whether rules that hold for always allow a destination; None if none of them is about it."""
    try:
        found = table.for_address(ip_address(host), port)
    except ValueError:
        found = table.for_name(host.lower(), port)
    actions = {rule.action for rule in found if not rule.needs_http}
    return Action.DENY not in actions if actions else None


_Destination = tuple[str, int]


class Book:
    """The questions of one environment, and the answers that still hold."""

    def __init__(self, environment_id: str) -> None:
        self._environment_id = environment_id
        self._open: dict[_Destination, Question] = {}
        self._answers: dict[_Destination, tuple[str, float]] = {}
        self._quiet_until = -math.inf
        self._full_at = -math.inf
        self._last = 0

    @property
    def open(self) -> tuple[Question, ...]:
        """The open questions, oldest first."""
        return tuple(self._open.values())

    def known(self, host: str, port: int, now: float) -> str | None:
        """Return what is known without asking; None if nothing is."""
        reason, until = self._answers.get((host, port), (ALLOWED, -math.inf))
        if now < until:
            return reason
        return SILENCE if now < self._quiet_until else None

    def ask(self, host: str, port: int, now: float) -> Question | str:
        """Return the question to ask, a new one or one that is open; or why it is not asked."""
        if (question := self._open.get((host, port))) is not None:
            return question
        if len(self._open) >= MAX_OPEN:
            return TOO_MANY
        full_at = max(self._full_at, now) + EVERY_SECONDS
        if full_at - now > AT_ONCE * EVERY_SECONDS:
            return TOO_OFTEN
        self._full_at = full_at
        self._last += 1
        question = Question(self._last, self._environment_id, host, port)
        self._open[host, port] = question
        return question

    def withdraw(self, question: Question) -> None:
        """Forget an open question: nothing waits for its answer. Idempotent."""
        if self._open.get((question.host, question.port)) == question:
            del self._open[question.host, question.port]

    def answer(self, question: Question, answer: Answer, now: float) -> str:
        """Note an answer, which may be late, and return what it means for the connection."""
        self.withdraw(question)
        self._quiet_until = -math.inf
        reason = SAID_NO if answer is Answer.NO else ALLOWED
        self._answers = {place: kept for place, kept in self._answers.items() if now < kept[1]}
        self._answers[question.host, question.port] = reason, now + REMEMBERED_SECONDS
        return reason

    def silence(self, now: float) -> tuple[Question, ...]:
        """Note that nobody answers; return the questions that were open, all refused by that."""
        unanswered = self.open
        self._open.clear()
        self._quiet_until = now + REMEMBERED_SECONDS
        return unanswered
