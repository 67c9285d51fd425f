# SPDX-License-Identifier: Apache-2.0
"""The table of benchmarks, its output on a terminal, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.__main__ import MEASURES, PAGE, parse
from benchmarks.report import HEAD, missed, page, read_page, terminal
from benchmarks.table import GROUPS, ROWS, WHOLE, Result, Row, figure, is_kept, rows
from hypothesis import given
from hypothesis import strategies as st

cells = st.text("abc 0123456789.,+-()", max_size=20).map(str.strip)


def measured(row: Row) -> st.SearchStrategy[Result]:
    """Return any result of a row, in the page's precision: hundredths, or whole numbers."""
    hundredths = st.integers(0, 1000) if row.unit in WHOLE else st.integers(0, 100_000)
    values = hundredths.map(lambda n: float(n) if row.unit in WHOLE else n / 100)
    return st.builds(Result, st.just(row.key), values, ours=cells, theirs=cells, how=cells)


results = st.lists(st.sampled_from(ROWS), unique=True).flatmap(
    lambda some: st.fixed_dictionaries({row.key: measured(row) for row in some})
)


def result(key: str, value: float) -> Result:
    return Result(key, value, "1.00 s", "0.90 s", "5 rounds")


def test_every_group_is_measured() -> None:
    assert tuple(MEASURES) == GROUPS
    assert sum(len(rows(group)) for group in GROUPS) == len(ROWS)
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_the_limits_are_those_that_were_promised() -> None:
    assert {row.key: row.limit for row in ROWS if row.limit is not None} == {
        "cold": 1.15,
        "direct-page": 1.4,
        "direct-large": 1.33,
        "direct-denied": 100,
        "agent-first": 1000,
        "agent-read": 2.0,
        "ended-large": 1.67,
        "template": 0.1,
        "pause": 1.5,
        "density": 60,
        "fork": 0.15,
        "output-tail": 2,
        "output-memory": 4,
        "fork-living": 1.3,
        "execute": 1.3,
        "cell": 0.25,
        "cell-ssh": 1.2,
        "first-cell": 1.3,
        "claim": 1.5,
        "write-text": 1.5,
        "write-base64": 1.5,
        "read-text": 1.5,
        "read-base64": 1.5,
        "idle": 120,
        "environment": 2,
        "cycles": 0,
        "list": 3,
        "call-1": 1.3,
        "call-32": 1.3,
        "session-1": 1.3,
        "session-32": 1.3,
        "load-errors": 0,
        "load-p99": 4,
        "load-memory": 8,
        "sessions": 1.1,
        "pull-cold": 0.8,
        "pull-shared": 0.35,
        "pull-memory": 150,
        "create-cached": 1.05,
        "rules": 0.1,
        "tokens-core": 1_650,
        "tokens-core-output": 3_000,
        "tokens-full": 5_000,
        "tokens-full-output": 9_000,
        "tokens-print": 40,
        "tokens-session": 1_000,
        "first-python": 1.1,
        "first-data": 1.1,
        "image-disks": 2.2,
        "krun-first-result": 0.8,
        "krun-banner": 1.2,
        "krun-memory": 1.15,
        "firecracker-template": 0.7,
        "firecracker-cold": 0.9,
        "firecracker-restore": 0.35,
        "firecracker-memory": 0.6,
        "firecracker-lost": 0,
        "firecracker-pause": 1.3,
    }


@pytest.mark.parametrize("row", [row for row in ROWS if row.limit is not None])
def test_a_value_at_its_limit_is_still_allowed(row: object) -> None:
    row = next(each for each in ROWS if each == row)
    assert row.limit is not None
    step = 1 if row.unit in WHOLE else 0.01
    assert is_kept(row, row.limit)
    assert not is_kept(row, row.limit + step)
    assert missed([result(row.key, row.limit), result(row.key, row.limit + step)]) == [row.key]


@given(results)
def test_a_page_is_read_back_as_it_was_written(found: dict[str, Result]) -> None:
    text = page(found, "a machine")
    again = read_page(text)
    assert page(again, "a machine") == text
    assert again.keys() == found.keys()


def test_new_results_replace_old_ones_and_keep_the_rest() -> None:
    old = read_page(page({"cold": result("cold", 1.1), "list": result("list", 2)}, "old"))
    text = page(old | {"cold": result("cold", 1.2)}, "new")
    assert read_page(text)["cold"].value == 1.2
    assert read_page(text)["list"].value == 2
    assert "| 1.20 x | 1.15 x | **no** |" in text
    assert "Measured on new." in text


def test_the_terminal_shows_exceeded_limits() -> None:
    lines = terminal([result("cold", 1.2), result("list", 1), result("execute-argument", 9)])
    cold, listed, argument = lines.splitlines()[1:]
    assert "1.20 x" in cold
    assert "TOO MUCH" in cold
    assert "ok" in listed
    assert "none" in argument


def test_figures_have_units() -> None:
    shown = {row.key: figure(row, 7) for row in ROWS}
    assert (shown["cold"], shown["idle"], shown["cycles"]) == ("7.00 x", "7.00 MB", "7 left")


STILL_OPEN = {"template", "firecracker-pause"}
"""Rows over their limit; the page says why."""
NOT_MEASURED = {"tokens-session"}
"""Rows that the page lacks until `./task bench -- tokens --write` has run."""


class TestKeptPage:
    """docs/benchmarks.md as it is in the repository."""

    def test_its_rows_and_limits_are_those_of_the_code(self) -> None:
        text = PAGE.read_text("utf-8")
        machine = text.partition("\nMeasured on ")[2].partition(".\n\n|")[0]
        assert text.startswith(HEAD)
        assert text == page(read_page(text), machine), "run ./task bench -- --full --write"

    def test_every_row_was_measured_and_no_limit_missed(self) -> None:
        kept = read_page(PAGE.read_text("utf-8"))
        assert set(kept) == {row.key for row in ROWS} - NOT_MEASURED
        assert set(missed(kept.values())) == STILL_OPEN
        assert kept["cycles"].how.startswith("200 cycles")


class TestCommandLine:
    def test_everything_is_measured_by_default(self) -> None:
        asked = parse([])
        assert (asked.names, asked.rounds, asked.write) == ([], None, False)

    def test_names_and_numbers_are_parsed(self) -> None:
        asked = parse(["cold", "list", "--rounds", "3", "--cycles", "7", "--full", "--write"])
        assert asked.names == ["cold", "list"]
        assert (asked.rounds, asked.cycles, asked.full, asked.write) == (3, 7, True, True)

    @pytest.mark.parametrize("argv", [["warm"], ["--rounds", "0"], ["--cycles", "x"]])
    def test_invalid_arguments_are_refused(
        self, argv: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            parse(argv)
        assert "error" in capsys.readouterr().err


def test_the_page_is_where_readers_look() -> None:
    assert Path(__file__).parents[2] / "docs" / "benchmarks.md" == PAGE
