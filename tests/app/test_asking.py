# SPDX-License-Identifier: Apache-2.0
"""What a person answers becomes a rule of the environment, or of its owner."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.asking import Person, connecting
from tests.support.server import MODERN, Setup, client, created, serving, text_of
from tests.support.settings import settings_in

from waggle.app.asking import keep_answers
from waggle.app.network import operator_rules
from waggle.domain.access import LOCAL
from waggle.service.environments.questions import Questions

pytestmark = pytest.mark.anyio


async def test_answers_become_rules(tmp_path: Path) -> None:
    rules, questions = operator_rules(settings_in(tmp_path)), Questions()
    (tmp_path / "data").mkdir(exist_ok=True)
    person = Person(["environment", "always"])
    async with (
        serving(connecting(Setup(), questions)) as rig,
        client(rig, MODERN, person=person) as agent,
    ):
        environments = rig.services.environments
        keep_answers(questions, environments, rules, always=True)
        first, second = [await created(agent) for _ in range(2)]
        for environment in (first, second):
            places = ["a.example", "b.example:22"] if environment == first else ["b.example:22"]
            arguments = {"environment_id": environment, "command": ["connect", *places]}
            result = await agent.call_tool("run_command", arguments)
            assert text_of(result).count(" yes") == len(places)
        assert environments.get(first, owner=LOCAL).network.items == [
            "public",
            "a.example:443",
            "b.example:22",
        ]
        assert [*map(str, rules.approved(LOCAL))] == ["b.example:22"]
        assert environments.get(second, owner=LOCAL).network.items == ["public"]
        assert len(person.messages) == 2  # what is allowed for always was not asked again


async def test_for_always_is_offered_only_if_the_operator_says_so(tmp_path: Path) -> None:
    rules, questions, person = operator_rules(settings_in(tmp_path)), Questions(), Person(["no"])
    async with (
        serving(connecting(Setup(), questions)) as rig,
        client(rig, MODERN, person=person) as agent,
    ):
        keep_answers(questions, rig.services.environments, rules, always=False)
        arguments = {"environment_id": await created(agent), "command": ["connect", "a.example"]}
        await agent.call_tool("run_command", arguments)
        assert person.offered == [["once", "environment", "no"]]
