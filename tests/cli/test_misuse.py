# SPDX-License-Identifier: Apache-2.0
"""Options that do not exist: the error names the right way, and nothing starts."""

from __future__ import annotations

import pytest

from waggle.cli import main
from waggle.config import fields


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return " ".join(err.replace("│", "").split())


@pytest.mark.parametrize("option", ["--port", "--host=::", "--bind", "--address", "--listen-addr"])
def test_address_options_suggest_listen(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Use --listen HOST:PORT" in error(capsys, "serve", option, "9000")


def test_setting_options_suggest_variables(capsys: pytest.CaptureFixture[str]) -> None:
    for field in fields():
        if field != "listen_addr":
            option = f"--{field.replace('_', '-')}"
            assert f"the variable WAGGLE_{field.upper()} instead" in error(capsys, "serve", option)


@pytest.mark.parametrize(
    "option,meant", [("--max-enviroments=5", "MAX_ENVIRONMENTS"), ("--data-directory", "DATA_DIR")]
)
def test_a_typo_gets_a_hint(option: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"Did you mean the variable WAGGLE_{meant}?" in error(capsys, "serve", option)


def test_unknown_and_incomplete_options_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert "WAGGLE_* variables" in error(capsys, "serve", "--xyzzy")
    assert "Unused Tokens" in error(capsys, "serve", "extra")
    assert "requires an argument" in error(capsys, "serve", "--listen")


def test_other_commands_keep_their_errors(capsys: pytest.CaptureFixture[str]) -> None:
    text = error(capsys, "doctor", "--port")
    assert "Unknown option: --port." in text
    assert "--listen" not in text


@pytest.mark.parametrize("words", [("exec", "box", "ls", "-l"), ("run", "x.py", "--verbose")])
def test_program_options_need_dashes(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Write -- before the program's own words" in error(capsys, *words)


@pytest.mark.parametrize("value", ["9000", ":1", "localhost:99999", "", "a b:1"])
def test_a_bad_listen_address_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = error(capsys, "serve", "--listen", value)
    assert "--listen=" in text
    assert "expected host:port" in text
    assert "WAGGLE_LISTEN_ADDR" not in text


def test_stdio_and_listen_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert "exclude each other" in error(capsys, "serve", "--stdio", "--listen", "127.0.0.1:0")
