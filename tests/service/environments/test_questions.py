# SPDX-License-Identifier: Apache-2.0
"""Questions between proxies and calls: who waits, who asks, and what ends both."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from tests.support.asking import Rules
from tests.support.waiting import until

from waggle.domain.errors import TooManyJobs
from waggle.domain.network.questions import NEVER, NOBODY, SAID_NO, SILENCE, Answer, Question
from waggle.domain.network.rules import Rule, parse_rule
from waggle.service.environments.questions import CannotAsk, Questions

pytestmark = pytest.mark.anyio
HERE = "00000000-0000-4000-8000-000000000001"


@dataclass
class Asker:
    """A call that can put questions, and answers when the test says."""

    put_now: list[Question] = field(default_factory=list[Question])
    withdrawn: list[Question] = field(default_factory=list[Question])
    answer: Answer | None = Answer.ONCE
    may_answer: anyio.Event = field(default_factory=anyio.Event)

    async def put(self, question: Question) -> Answer | None:
        self.put_now.append(question)
        try:
            await self.may_answer.wait()
        except anyio.get_cancelled_exc_class():
            self.withdrawn.append(question)
            raise
        return self.answer


@dataclass
class World:
    questions: Questions
    group: anyio.abc.TaskGroup
    said: dict[str, str] = field(default_factory=dict[str, str])

    def connect(self, *hosts: str) -> anyio.CancelScope:
        """Begin connections, which go into `said` when they are answered."""
        scope = anyio.CancelScope()

        async def one(host: str) -> None:
            self.said[host] = await self.questions.ask(HERE, host.partition("#")[0], 443)

        async def all_of_them() -> None:
            with scope:
                async with anyio.create_task_group() as group:
                    for host in hosts:
                        group.start_soon(one, host)

        self.group.start_soon(all_of_them)
        return scope

    def serve(self, asker: Asker, at_once: int = 1) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def serve() -> None:
            with scope:
                await self.questions.serve(HERE, asker.put, at_once)

        self.group.start_soon(serve)
        return scope


@asynccontextmanager
async def world(questions: Questions | None = None) -> AsyncGenerator[World]:
    async with anyio.create_task_group() as group:
        yield World(questions or Questions(grace=5), group)
        group.cancel_scope.cancel()


async def test_connections_to_one_place_wait_for_one_answer() -> None:
    async with world() as here:
        asker = Asker()
        here.serve(asker)
        here.connect("a.example#1", "a.example#2", "a.example.#3")
        await until(lambda: bool(asker.put_now))
        asker.may_answer.set()
        await until(lambda: len(here.said) == 3)
        assert {*here.said.values()} == {""}
        assert [question.host for question in asker.put_now] == ["a.example"]


async def test_without_a_call_that_asks_a_connection_is_soon_refused() -> None:
    async with world(Questions(grace=0.01)) as here:
        assert await here.questions.ask(HERE, "a.example", 443) == NOBODY


async def test_a_connection_waits_a_moment_for_the_call_that_causes_it() -> None:
    async with world() as here:
        here.connect("a.example")
        await anyio.lowlevel.checkpoint()
        asker = Asker()
        asker.may_answer.set()
        here.serve(asker)
        await until(lambda: here.said == {"a.example": ""})


async def test_a_question_is_withdrawn_when_no_connection_waits_any_more() -> None:
    async with world() as here:
        asker = Asker()
        here.serve(asker)
        first, second = here.connect("a.example#1"), here.connect("a.example#2")
        await until(lambda: bool(asker.put_now))
        first.cancel()
        await anyio.lowlevel.checkpoint()
        assert not asker.withdrawn
        second.cancel()
        await until(lambda: asker.withdrawn == asker.put_now)
        assert here.questions.desk(HERE).is_quiet
        here.connect("b.example")  # and nothing is silent
        await until(lambda: len(asker.put_now) == 2)


async def test_another_call_takes_over_what_one_cannot_ask_any_more() -> None:
    async with world() as here:
        gone, stays = Asker(), Asker(answer=Answer.NO)
        stays.may_answer.set()
        call = here.serve(gone)
        here.connect("a.example")
        await until(lambda: bool(gone.put_now))
        here.serve(stays)
        await anyio.lowlevel.checkpoint()
        call.cancel()
        await until(lambda: here.said == {"a.example": SAID_NO})
        assert gone.withdrawn == stays.put_now


async def test_a_call_whose_client_refuses_leaves_the_question_to_others() -> None:
    async with world() as here:
        asked = list[Question]()

        async def refuse(question: Question) -> Answer | None:
            asked.append(question)
            raise CannotAsk

        asker = Asker()
        here.group.start_soon(here.questions.serve, HERE, refuse, 3)
        here.serve(asker)
        here.connect("a.example")
        asker.may_answer.set()
        await until(lambda: here.said == {"a.example": ""})
        assert here.questions.desk(HERE).serving == 1
        assert len(asked) <= 3


async def test_after_the_last_call_that_can_ask_nobody_is_asked() -> None:
    async with world() as here:
        asker = Asker()
        call = here.serve(asker)
        here.connect("a.example", "b.example")
        await until(lambda: bool(asker.put_now))
        call.cancel()
        await until(lambda: here.said == {"a.example": NOBODY, "b.example": NOBODY})


async def test_silence_refuses_all_that_is_open() -> None:
    async with world(Questions(seconds=0.05, grace=5)) as here:
        asker = Asker()
        here.serve(asker)
        here.connect("a.example", "b.example", "c.example")
        await until(lambda: len(here.said) == 3)
        assert {*here.said.values()} == {SILENCE}
        assert len(asker.withdrawn) == 1


async def test_questions_side_by_side_are_as_many_as_the_call_says() -> None:
    async with world() as here:
        asker = Asker()
        here.serve(asker, at_once=3)
        here.connect(*(f"{number}.example" for number in range(5)))
        await until(lambda: len(asker.put_now) == 3)
        asker.may_answer.set()
        await until(lambda: len(here.said) == 5)


async def test_a_destroyed_environment_has_no_questions() -> None:
    async with world() as here:
        asker = Asker()
        here.serve(asker)
        here.connect("a.example")
        await until(lambda: bool(asker.put_now))
        question = asker.put_now[0]
        here.questions.forget(HERE)
        here.questions.forget(HERE)
        await until(lambda: here.said == {"a.example": NOBODY})
        await here.questions.decide(question, Answer.ENVIRONMENT)  # late: nothing happens


@pytest.mark.parametrize("error", [TooManyJobs("There is no more room."), OSError("full")])
async def test_an_answer_that_cannot_be_kept_holds_once(error: Exception) -> None:
    async def full(_environment_id: str, _rule: Rule) -> None:
        raise error

    async with world(Questions(allow=full, grace=5)) as here:
        asker = Asker(answer=Answer.ENVIRONMENT)
        asker.may_answer.set()
        here.serve(asker)
        here.connect("a.example")
        await until(lambda: here.said == {"a.example": ""})


def test_only_what_can_be_kept_is_offered() -> None:
    questions, rules = Questions(), Rules()
    named, single = Question(1, HERE, "a.example", 443), Question(2, HERE, "single", 443)
    assert questions.answers(named) == (Answer.ONCE, Answer.NO)
    questions.keep(rules.allow)
    assert questions.answers(named) == (Answer.ONCE, Answer.ENVIRONMENT, Answer.NO)
    questions.keep(rules.allow, rules.approve)
    assert questions.answers(named) == tuple(Answer)
    assert questions.answers(single) == (Answer.ONCE, Answer.NO)


async def test_what_is_approved_for_always_is_not_asked() -> None:
    rules = Rules()
    table = {HERE: [parse_rule("a.example:443"), parse_rule("deny b.example")]}
    async with world(Questions(grace=0.01)) as here:
        here.questions.keep(rules.allow, approved=lambda environment: table.get(environment, ()))
        here.connect("a.example", "a.example.#2", "b.example", "c.example")
        await until(lambda: len(here.said) == 4)
        assert [*map(here.said.get, ("a.example", "a.example.#2"))] == ["", ""]
        assert [*map(here.said.get, ("b.example", "c.example"))] == [NEVER, NOBODY]


async def test_an_answer_is_kept_although_its_call_ends_meanwhile() -> None:
    keeping, may_keep, rules = anyio.Event(), anyio.Event(), Rules()

    async def slow(environment_id: str, rule: Rule) -> None:
        keeping.set()
        await may_keep.wait()
        await rules.allow(environment_id, rule)

    async with world(Questions(allow=slow, grace=5)) as here:
        asker = Asker(answer=Answer.ENVIRONMENT)
        asker.may_answer.set()
        call = here.serve(asker)
        here.connect("a.example")
        await keeping.wait()
        call.cancel()
        may_keep.set()
        await until(lambda: here.said == {"a.example": ""})
        assert rules.allowed == [(HERE, "a.example:443")]


async def test_the_time_of_open_questions_is_counted() -> None:
    now = 100.0
    async with world(Questions(clock=lambda: now, grace=5)) as here:
        desk, asker = here.questions.desk(HERE), Asker()
        here.serve(asker)
        here.connect("a.example", "b.example")
        await until(lambda: bool(asker.put_now))
        now += 7
        assert desk.held == 7
        asker.may_answer.set()
        await until(lambda: len(here.said) == 2)
        now += 5
        assert desk.held == 7
