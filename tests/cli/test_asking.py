# SPDX-License-Identifier: Apache-2.0
"""Commands on a terminal ask the person there; without one the server refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.beside import Commands
from tests.support.asking import Rules, connecting
from tests.support.keyboard import keyboard
from tests.support.server import Setup, serving

from waggle.cli.asking import chosen
from waggle.domain.network.questions import NOBODY, SAID_NO
from waggle.service.environments.questions import Questions

CHOICES = ["once", "environment", "no"]


@pytest.mark.anyio
async def test_exec_on_a_terminal_asks_the_person_there(tmp_path: Path) -> None:
    rules = Rules()
    async with serving(connecting(Setup(), Questions(allow=rules.allow))) as rig:
        commands = Commands(rig, tmp_path)
        status, made, _ = await commands("env", "new")
        assert status == 0
        environment = made.strip()
        words = ("exec", environment, "--", "connect", "a.example", "b.example", "c.example")
        async with keyboard(
            *words, data=tmp_path, settings=commands.settings, columns=200, is_its_own=True
        ) as keys:
            await keys.shows("wants to connect to a.example:443")
            await keys.shows("once, environment, no? [no]")
            keys.type("y\r")
            await keys.shows("wants to connect to b.example:443")
            await keys.shows("[no]")
            keys.type("env\r")
            await keys.shows("wants to connect to c.example:443")
            await keys.shows("[no]")
            keys.type("\r")
            await keys.shows(f"c.example:443 {SAID_NO}")
            assert await keys.ended() == 0
            assert b"a.example:443 yes" in keys.shown
        assert rules.allowed == [(environment, "b.example:443")]


@pytest.mark.anyio
async def test_without_a_terminal_nobody_is_asked(tmp_path: Path) -> None:
    async with serving(connecting(Setup(), Questions(grace=0.05))) as rig:
        commands = Commands(rig, tmp_path)
        _, made, _ = await commands("env", "new")
        status, out, _ = await commands("exec", made.strip(), "--", "connect", "a.example")
        assert (status, out) == (0, f"a.example:443 {NOBODY}\n")


def test_an_answer_is_a_word_or_its_beginning() -> None:
    for line, choice in (
        ("once\n", "once"),
        ("Yes\n", "once"),
        (" e \n", "environment"),
        ("n\n", "no"),
        ("\n", None),
        ("always\n", None),
        ("what\n", None),
    ):
        assert chosen(line, CHOICES) == choice
