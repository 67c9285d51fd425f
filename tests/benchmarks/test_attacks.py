# SPDX-License-Identifier: Apache-2.0
"""The figures of attacks: exceeded limits, and the table of docs/security.md."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.attacks.__main__ import PAGE, parse, wanted
from benchmarks.attacks.assaults import ASSAULTS
from benchmarks.attacks.figures import Figures, exceeded
from benchmarks.attacks.report import BEGIN, END, page, row, rows_of, terminal
from benchmarks.attacks.table import WHAT

GOOD = Figures(
    "debug",
    60.0,
    stall=0.25,
    p99=0.21,
    quiet=0.01,
    lists=1000,
    execute=3.0,
    executes=20,
    before=100.0,
    peak=250.0,
    after=114.9,
    destroy=10.0,
    destroys=3,
    said={"guest_misbehaves": 3},
)
EMPTY = f"# Before\n\n{BEGIN}\n{END}\n\nafter\n"


def test_every_attack_has_a_row() -> None:
    assert list(ASSAULTS) == list(WHAT)


def test_the_limits_are_those_that_were_promised() -> None:
    assert exceeded(GOOD) == []


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, stall=0.2501),
        replace(GOOD, p99=0.2111),
        replace(GOOD, refused=1),
        replace(GOOD, lists=0),
        replace(GOOD, failures=["0 b''"]),
        replace(GOOD, executes=0),
        replace(GOOD, peak=251.0),
        replace(GOOD, after=116.0),
        replace(GOOD, destroy=10.1),
        replace(GOOD, left={"processes": 1}),
        replace(GOOD, logged=["Traceback"]),
        replace(GOOD, why="the server ended"),
    ],
)
def test_every_exceeded_limit_is_reported(bad: Figures) -> None:
    (told,) = exceeded(bad)
    assert told in row(bad)
    assert "**no**" in row(bad)
    assert told in terminal(bad)


def test_a_partial_run_keeps_the_other_rows() -> None:
    once = page(EMPTY, [GOOD], "On one machine.")
    twice = page(once, [replace(GOOD, name="ignore", stall=1.0)], "On one machine.")
    assert set(rows_of(twice)) == {"debug", "ignore"}
    assert rows_of(twice)["debug"] == row(GOOD)
    assert twice.startswith("# Before\n")
    assert twice.endswith(f"{END}\n\nafter\n")
    assert twice.count("not measured") == len(WHAT) - 2
    assert page(twice, [], "On one machine.") == twice


def test_messages_of_a_server_cannot_break_the_table() -> None:
    told = row(replace(GOOD, why="a|b\nc"))
    assert told.count("\n") == 0
    assert told.count("|") == row(GOOD).count("|")


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        page("# Nothing", [GOOD], "")


def test_the_document_has_every_attack() -> None:
    text = PAGE.read_text("utf-8")
    assert all(f"| `{name}` | {what} |" in text for name, what in WHAT.items())


def test_a_run_can_be_continued() -> None:
    text = page(EMPTY, [GOOD], "")
    assert "debug" not in wanted([], is_missing=True, text=text)
    assert wanted(["debug"], is_missing=True, text=text) == []
    assert wanted(["ignore", "debug"], is_missing=False, text=text) == ["debug", "ignore"]


def test_an_unknown_attack_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "debug", "nonsense"])
    assert "nonsense" in capsys.readouterr().err
