# SPDX-License-Identifier: Apache-2.0
"""Persons are asked within calls: the SDK's client over HTTP and stdio, in both eras."""

import os
from functools import partial
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from tests.support.asking import Person, Rules, connecting
from tests.support.owners import ANN, BOB, guarded
from tests.support.repository import ROOT
from tests.support.server import (
    ERAS,
    LEGACY,
    MODERN,
    Setup,
    client,
    created,
    data_of,
    serving,
    text_of,
)
from tests.support.stdio_program import STDIO_PROGRAM
from tests.support.waiting import until

from waggle.domain.network.questions import AT_ONCE, NOBODY, SAID_NO, SILENCE
from waggle.service.environments.questions import Questions

pytestmark = pytest.mark.anyio
eras = pytest.mark.parametrize("era", ERAS)


async def run(agent: Client, environment: str, *places: str, **more: object) -> str:
    """Run the program `connect` and return what it printed."""
    arguments = {"environment_id": environment, "command": ["connect", *places], **more}
    return text_of(await agent.call_tool("run_command", arguments))


@eras
async def test_a_person_allows_a_connection_once_within_the_call(era: str) -> None:
    person, rules = Person(["once"]), Rules()
    setup = connecting(Setup(), Questions(allow=rules.allow))
    async with serving(setup) as rig, client(rig, era, person=person) as agent:
        environment = await created(agent)
        printed = await run(agent, environment, "example.org", "example.org", "Example.org.:22")
        assert "example.org:443 yes\nexample.org:443 yes\n" in printed
        assert [message.split(" wants")[1] for message in person.messages] == [
            " to connect to example.org:443; no rule decides. Allow it?",
            " to connect to Example.org:22; no rule decides. Allow it?",
        ]
        assert person.offered[0] == ["once", "environment", "no"]
        assert rules.allowed == []


@eras
async def test_for_the_environment_and_for_always_the_answer_becomes_a_rule(era: str) -> None:
    person, rules = Person(["environment", "always", "once"]), Rules()
    setup = connecting(Setup(), Questions(allow=rules.allow, approve=rules.approve))
    async with serving(setup) as rig, client(rig, era, person=person) as agent:
        environment = await created(agent)
        printed = await run(agent, environment, "a.example", "b.example:22", "single")
        assert printed.count(" yes") == 3
        assert rules.allowed == [(environment, "a.example:443"), (environment, "b.example:22")]
        assert rules.approved == [(environment, "b.example:22")]
        assert person.offered[0] == ["once", "environment", "always", "no"]
        assert person.offered[2] == ["once", "no"]  # there is no rule for a name without a dot


@eras
@pytest.mark.parametrize("answer", ["no", "decline", "cancel", "always", "what"])
async def test_everything_but_an_offered_yes_is_a_no_which_holds(era: str, answer: str) -> None:
    person, rules = Person([answer]), Rules()
    setup = connecting(Setup(), Questions(allow=rules.allow))
    async with serving(setup) as rig, client(rig, era, person=person) as agent:
        printed = await run(agent, await created(agent), "example.org", "example.org")
        assert printed.count(f"example.org:443 {SAID_NO}\n") == 2
        assert len(person.messages) == 1
        assert rules.allowed == []


@eras
async def test_a_client_that_cannot_ask_gets_a_refusal(era: str) -> None:
    async with (
        serving(connecting(Setup(), Questions(grace=0.05))) as rig,
        client(rig, era) as agent,
    ):
        assert f"443 {NOBODY}" in await run(agent, await created(agent), "example.org")


async def test_an_unanswered_question_is_refused_and_the_call_goes_on() -> None:
    person = Person([None])
    async with (
        serving(connecting(Setup(), Questions(seconds=0.1))) as rig,
        client(rig, LEGACY, person=person) as agent,
    ):
        printed = await run(agent, await created(agent), "example.org", "example.net")
        assert f"example.org:443 {SILENCE}\nexample.net:443 {SILENCE}\n" in printed
        assert len(person.messages) == 1
        with anyio.fail_after(5):
            await person.cancelled.wait()  # the client need not show it any more


async def test_an_answer_that_comes_late_holds_for_the_next_connection() -> None:
    questions = Questions(seconds=0.5)
    setup = connecting(Setup(), questions)
    person = Person(["once"])
    async with serving(setup) as rig, client(rig, MODERN, person=person) as agent:
        environment = await created(agent)
        desk = questions.desk(environment)
        person.before = partial(until, lambda: desk.held > 0 and desk.is_quiet)
        assert f"example.org:443 {SILENCE}" in await run(agent, environment, "example.org")
        assert "example.org:443 yes" in await run(agent, environment, "example.org")


@eras
async def test_waiting_stands_still_while_a_person_thinks(era: str) -> None:
    person, questions = Person(["once"]), Questions()
    async with (
        serving(connecting(Setup(), questions)) as rig,
        client(rig, era, person=person) as agent,
    ):
        environment = await created(agent)
        desk = questions.desk(environment)
        person.before = partial(until, lambda: desk.held > 0.4)
        printed = await run(agent, environment, "example.org", wait_seconds=0.2)
        assert "example.org:443 yes\n[job 1: exit 0]" in printed


@eras
async def test_of_a_flood_of_names_few_are_asked(era: str) -> None:
    person = Person(["no"])
    async with (
        serving(connecting(Setup(), Questions(grace=0.01))) as rig,
        client(rig, era, person=person) as agent,
    ):
        places = [f"{number}.example" for number in range(200)]
        printed = await run(agent, await created(agent), *places)
        assert printed.count(f" {SAID_NO}") == len(person.messages)
        assert " yes" not in printed
        assert 5 < len(person.messages) <= AT_ONCE


@eras
async def test_calls_beside_each_other_ask_each_question_once(era: str) -> None:
    people = Person(["once"]), Person(["once"])
    async with (
        serving(connecting(Setup(), Questions())) as rig,
        client(rig, era, person=people[0]) as first,
        client(rig, era, person=people[1]) as second,
    ):
        environment = await created(first)
        printed: list[str] = []

        async def call(agent: Client, *places: str) -> None:
            printed.append(await run(agent, environment, *places))

        async with anyio.create_task_group() as group:
            group.start_soon(call, first, "a.example", "b.example")
            group.start_soon(call, second, "b.example", "a.example")
        assert sorted(text.count(" yes") for text in printed) == [2, 2]
        assert len(people[0].messages) + len(people[1].messages) == 2


@eras
async def test_another_owner_is_never_asked(era: str) -> None:
    stranger = Person(["once"])
    setup = connecting(guarded(), Questions(grace=0.05))
    async with (
        serving(setup) as rig,
        client(rig, era, token=ANN) as ann,
        client(rig, era, token=BOB, person=stranger) as bob,
    ):
        theirs, own = await created(ann), await created(bob)
        async with anyio.create_task_group() as group:
            hang = {"environment_id": own, "code": "hang"}
            group.start_soon(bob.call_tool, "execute", hang)
            await rig.host.guests[own].started.wait()
            assert NOBODY in await run(ann, theirs, "example.org")
            rig.host.guests[own].release.set()
        assert stranger.messages == []


@eras
async def test_reading_a_background_job_asks_what_it_causes(era: str) -> None:
    person = Person(["once"])
    async with (
        serving(connecting(Setup(), Questions(grace=5))) as rig,
        client(rig, era, person=person) as agent,
    ):
        environment = await created(agent)
        await run(agent, environment, "example.org", background=True)
        read = {"environment_id": environment, "job_id": 1, "wait_seconds": 10}
        result = await agent.call_tool("read_job", read)
        assert "example.org:443 yes" in text_of(result)


@eras
async def test_installing_asks_too(era: str) -> None:
    person = Person(["once"])
    setup = connecting(Setup(), Questions(), program="install")
    async with serving(setup) as rig, client(rig, era, person=person) as agent:
        result = await agent.call_tool("install_packages", {"packages": ["example.org"]})
        assert data_of(result)["exit_code"] == 0
        assert len(person.messages) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_person_is_asked_over_stdio(era: str, tmp_path: Path) -> None:
    person = Person(["once", "no"])
    command, arguments = STDIO_PROGRAM[0], STDIO_PROGRAM[1:]
    variables = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    program = StdioServerParameters(command=command, args=arguments, env=variables, cwd=ROOT)
    with (tmp_path / "log").open("w") as errors:
        transport = stdio_client(program, errlog=errors)
        async with Client(
            transport, mode=era, elicitation_callback=person, read_timeout_seconds=20
        ) as agent:
            printed = await run(agent, await created(agent), "a.example", "b.example")
            assert f"a.example:443 yes\nb.example:443 {SAID_NO}\n" in printed
