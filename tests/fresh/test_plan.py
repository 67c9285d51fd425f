# SPDX-License-Identifier: Apache-2.0
"""The plan of a fresh run: the steps of every machine, the summary, and unknown names."""

from __future__ import annotations

from pathlib import Path

import pytest
from fresh.__main__ import Outcome, main, summary
from fresh.plan import SUITES, plan
from fresh.root import ORDINARY, ROOT

CHECKOUT = Path(__file__).parents[2]


def tried(suite: str, *, quick: bool) -> list[tuple[str, str]]:
    return [
        (machine.name, step.name) for machine in plan(suite, quick=quick) for step in machine.steps
    ]


def test_both_readme_commands_run_as_root_and_the_demo_as_an_ordinary_user() -> None:
    for suite in SUITES:
        users = {machine.user for machine in plan(suite, quick=True)}
        assert users == {ROOT, ORDINARY}
        assert tried(suite, quick=True) == [
            ("user", "demo"),
            ("root", "demo"),
            ("root", "test --quick"),
        ]


def test_only_a_quick_run_uses_two_machines_at_once() -> None:
    assert [machine.name for machine in plan("bookworm", quick=True) if machine.beside] == ["user"]
    assert not [machine for machine in plan("bookworm", quick=False) if machine.beside]


def test_a_full_run_includes_the_wheel_and_a_system_other_than_debian() -> None:
    assert ("wheel", "pipx and uv") in tried("bookworm", quick=False)
    assert ("ubuntu", "demo") in tried("trixie", quick=False)
    assert ("root", "test") in tried("trixie", quick=False)


@pytest.mark.parametrize("suite", SUITES)
def test_the_scripts_that_steps_run_exist(suite: str) -> None:
    for machine in plan(suite, quick=False):
        for step in machine.steps:
            scripts = [word for word in step.command.split() if word.endswith(".sh")]
            base = CHECKOUT / "fresh" if machine.without_checkout else CHECKOUT
            assert all((base / script).is_file() for script in scripts)


def test_the_summary_lists_every_step_and_counts() -> None:
    text = summary("trixie", [Outcome("root", "demo", 0, 95.2), Outcome("root", "test", 1, 900)])
    assert "On a bare trixie:" in text
    assert "root: demo                           95 s  passed" in text
    assert "root: test                          900 s  FAILED (1)" in text
    assert text.splitlines()[-1] == "fresh: 1 passed, 1 failed"


@pytest.mark.parametrize(
    "words, says", [(["sarge"], "bookworm"), (["--only", "mac"], "there are user, wheel, root")]
)
def test_an_unknown_suite_or_machine_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
