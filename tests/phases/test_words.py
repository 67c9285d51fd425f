# SPDX-License-Identifier: Apache-2.0
"""The glossary's banned words are found in names, comments, strings and documents."""

from __future__ import annotations

import pytest
from tests.phases.words import GLOSSARY, ROOT, Banned, banned_words, find

TABLE = """
| Banned | Where | Say instead |
|---|---|---|
| `moment` | everywhere | frozen machine |
| `each`, `made of` | names | the noun |
"""
MOMENT = Banned("moment", only_names=False, instead="frozen machine")
EACH = Banned("each", only_names=True, instead="the noun")
MADE_OF = Banned("made of", only_names=True, instead="the noun")


def lines(text: str, *banned: Banned, path: str = "some.py") -> list[int]:
    return [finding.line for finding in find(path, text, list(banned))]


def test_the_table_of_a_glossary_is_read() -> None:
    assert banned_words(TABLE) == [MOMENT, EACH, MADE_OF]


def test_the_table_of_this_repository_has_words() -> None:
    assert len(banned_words((ROOT / GLOSSARY).read_text("utf-8"))) >= 10


@pytest.mark.parametrize(
    "text",
    [
        "moment = 1",
        "old_moment = 1",
        "class MomentUnusable: ...",
        "MOMENT_BYTES = 1",
        "# of a moment",
        "text = 'the moment'",
        "text = f'the moment {1}'",
        '"""A moment."""',
    ],
)
def test_a_banned_word_is_found_wherever_it_stands(text: str) -> None:
    assert lines(f"ok = 1\n{text}\n", MOMENT) == [2]


def test_a_part_of_another_word_is_not_found() -> None:
    assert lines("momentum = reaching = 1  # teacher\n", MOMENT, EACH) == []


def test_a_word_that_is_banned_as_a_name_is_fine_in_prose() -> None:
    text = "for each in made_of:  # each is made of parts\n    pass\n"
    assert lines(text, EACH, MADE_OF) == [1, 1]


def test_a_document_is_read_without_the_table_itself() -> None:
    assert lines(f"{TABLE}\nOne moment.\n", MOMENT, path="docs/some.md") == [7]


def test_a_finding_names_the_place_and_the_better_word() -> None:
    (finding,) = find("src/some.py", "moment = 1\n", [MOMENT])
    assert str(finding) == "src/some.py:1: 'moment': say frozen machine"
