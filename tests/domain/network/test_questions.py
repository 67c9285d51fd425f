# SPDX-License-Identifier: Apache-2.0
"""The book of questions: what is asked once, what is remembered, and how much is asked at all."""

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.network.judging import RuleTable
from waggle.domain.network.questions import (
    ALLOWED,
    AT_ONCE,
    EVERY_SECONDS,
    MAX_OPEN,
    REMEMBERED_SECONDS,
    SAID_NO,
    SILENCE,
    TOO_MANY,
    TOO_OFTEN,
    Answer,
    Book,
    Question,
    approved,
)
from waggle.domain.network.rules import parse_rule

ENVIRONMENT = "00000000-0000-4000-8000-000000000001"


def asked(book: Book, host: str, now: float = 0.0, port: int = 443) -> Question:
    question = book.ask(host, port, now)
    assert isinstance(question, Question)
    return question


def test_the_same_host_and_port_is_one_question() -> None:
    book = Book(ENVIRONMENT)
    assert book.known("example.org", 443, 0) is None
    question = asked(book, "example.org")
    assert (question.place, question.environment_id) == ("example.org:443", ENVIRONMENT)
    assert asked(book, "example.org", 1) == question
    assert asked(book, "example.org", 1, port=22) != question
    assert len(book.open) == 2


def test_an_answer_holds_for_a_minute_without_a_rule() -> None:
    for answer, reason in ((Answer.ONCE, ALLOWED), (Answer.NO, SAID_NO)):
        book = Book(ENVIRONMENT)
        assert book.answer(asked(book, "example.org"), answer, 10) == reason
        assert book.open == ()
        assert book.known("example.org", 443, 10 + REMEMBERED_SECONDS - 1) == reason
        assert book.known("example.org", 443, 10 + REMEMBERED_SECONDS) is None
        assert book.known("example.org", 22, 11) is None


def test_after_silence_all_open_ones_are_refused_and_nothing_is_asked_for_a_minute() -> None:
    book = Book(ENVIRONMENT)
    questions = asked(book, "a.example"), asked(book, "b.example")
    assert book.silence(60) == questions
    assert book.known("c.example", 443, 61) == SILENCE
    assert book.known("c.example", 443, 60 + REMEMBERED_SECONDS) is None


def test_a_late_answer_counts_and_ends_the_silence() -> None:
    book = Book(ENVIRONMENT)
    question = asked(book, "a.example")
    book.silence(60)
    assert book.answer(question, Answer.ONCE, 70) == ALLOWED
    assert book.known("a.example", 443, 71) == ALLOWED
    assert book.known("c.example", 443, 71) is None


def test_a_withdrawn_question_is_asked_again_as_another_one() -> None:
    book = Book(ENVIRONMENT)
    first = asked(book, "a.example")
    book.withdraw(first)
    second = asked(book, "a.example")
    book.withdraw(first)
    assert book.open == (second,)
    assert first.number != second.number


def test_few_are_open_at_once() -> None:
    book = Book(ENVIRONMENT)
    for number in range(MAX_OPEN):
        asked(book, f"{number}.example")
    assert book.ask("more.example", 443, 0) == TOO_MANY
    assert isinstance(book.ask("0.example", 443, 0), Question)


@given(st.lists(st.floats(0, 5), max_size=400))
def test_a_flood_asks_few_questions(steps: list[float]) -> None:
    book, now, count = Book(ENVIRONMENT), 0.0, 0
    for number, step in enumerate(steps):
        now += step
        question = book.ask(f"{number}.example", 443, now)
        if isinstance(question, Question):
            count += 1
            book.answer(question, Answer.NO, now)
        else:
            assert question == TOO_OFTEN
    assert count <= AT_ONCE + now / EVERY_SECONDS


def test_what_is_approved_for_always_is_found_by_name_address_and_port() -> None:
    texts = [
        "a.example:443",
        "*.b.example",
        "deny x.b.example",
        "10.1.0.0/16:5432",
        "GET c.example",
    ]
    table = RuleTable(map(parse_rule, texts))
    for host, port, allowed in (
        ("A.example", 443, True),
        ("a.example", 80, None),
        ("y.b.example", 80, True),
        ("x.b.example", 80, False),
        ("10.1.2.3", 5432, True),
        ("10.1.2.3", 443, None),
        ("c.example", 80, None),
    ):
        assert approved(table, host, port) is allowed


def test_a_rule_allows_exactly_what_was_asked() -> None:
    assert str(Question(1, "e", "example.org", 443).rule) == "example.org:443"
    assert str(Question(1, "e", "2001:db8::1", 5432).rule) == "[2001:db8::1]:5432"
    assert Question(1, "e", "localdb", 5432).rule is None
    assert Question(1, "e", "what?ever", 443).rule is None
