# SPDX-License-Identifier: Apache-2.0
"""Judges are made of an environment's network, the operator's rules, and what was approved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waggle.domain.network import parse_network
from waggle.domain.network.judging import Outcome
from waggle.domain.network.rule_book import Judges
from waggle.domain.network.rules import Rule, parse_rule


class Book:
    """Rules with one name, and one approval of ann's."""

    version = 1

    def sets(self) -> Mapping[str, Sequence[Rule]]:
        return {"git": [parse_rule("git.example.org")]}

    def approved(self, owner: str) -> Sequence[Rule]:
        return [parse_rule("new.example.org")] if owner == "ann" else []


def outcome(own: str, name: str, *, owner: str = "ann", maximum: str = "public") -> Outcome:
    judges = Judges(Book(), parse_network(maximum))
    registries = [parse_rule("pip.example.org:443")]
    judge = judges.judge(parse_network(own), registries, owner)
    return judge.name(name, 443).result.outcome


def test_names_and_the_preset_stand_for_rules() -> None:
    assert outcome("@git", "git.example.org") is Outcome.ALLOWED
    assert outcome("@packages", "pip.example.org") is Outcome.ALLOWED
    assert outcome("@git", "pip.example.org") is Outcome.DENIED
    assert outcome("public", "pip.example.org", maximum="@packages") is Outcome.ALLOWED
    assert outcome("public", "git.example.org", maximum="@packages") is Outcome.DENIED


def test_what_was_approved_counts_for_its_owner_where_a_person_would_be_asked() -> None:
    assert outcome("ask", "new.example.org") is Outcome.ALLOWED
    assert outcome("ask", "new.example.org", owner="bob") is Outcome.ASK
    assert outcome("ask", "other.example.org") is Outcome.ASK
    assert outcome("ask, deny new.example.org", "new.example.org") is Outcome.DENIED
    assert outcome("@git", "new.example.org") is Outcome.DENIED, "it asks nobody"
    assert outcome("public", "new.example.org", maximum="ask") is Outcome.ALLOWED
    assert outcome("ask", "new.example.org", maximum="@git") is Outcome.DENIED
