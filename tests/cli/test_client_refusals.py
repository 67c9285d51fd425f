# SPDX-License-Identifier: Apache-2.0
"""A server's refusals, on the command line: they name commands that exist, and never a tool."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from mcp_types import CallToolResult, TextContent
from tests.support.server import default_tools, unused_services

from waggle.cli import main
from waggle.cli.advice import COMMANDS, advice, message
from waggle.cli.client import refused
from waggle.domain.errors import WaggleError
from waggle.domain.toolset import Offer
from waggle.mcp.errors import Failure, unknown_tool
from waggle.mcp.offered import result_for
from waggle.mcp.results import Reply, failed

NAMES = [tool.name for tool in default_tools()]
A_TOOL = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")


def test_every_tool_is_in_the_table() -> None:
    assert sorted(COMMANDS) == sorted(NAMES)
    assert unused_services().offer == Offer()


@pytest.mark.parametrize("tool", NAMES)
def test_no_tool_is_named(tool: str) -> None:
    kept = advice(f"Wait a while; {tool} shows more. Use {tool} for it.")
    assert not A_TOOL.search(kept)
    assert kept.startswith("Wait a while")
    command = COMMANDS[tool]
    assert (command is None) == (kept == "Wait a while.")
    if tool != "execute":  # a word that a sentence may have
        assert not A_TOOL.search(message(f"Internal error 1 in {tool}."))


@pytest.mark.parametrize("command", sorted({command for command in COMMANDS.values() if command}))
def test_commands_in_the_table_exist(command: str) -> None:
    words = command.strip("'").split()
    assert words[0] == "waggle"
    app = main.app
    for word in words[1:]:
        if word == "ENVIRONMENT" or word.startswith("-"):
            break
        app = app[word]
    assert app.help_print is not None


def all_errors(of: type[WaggleError] = WaggleError) -> Iterator[type[WaggleError]]:
    for error in of.__subclasses__():
        yield error
        yield from all_errors(error)


def test_no_hint_of_an_error_names_a_tool() -> None:
    hints = {error.__name__: advice(error.default_hint) for error in all_errors()}
    assert {name: text for name, text in hints.items() if A_TOOL.search(text)} == {}
    assert hints["NotFound"] == "Use 'waggle env ls' to see what exists, or 'waggle env new'."


def test_names_of_files_stay_as_they_are() -> None:
    text = "There is no file /tmp/read_file, and no 'list_jobs' or run_code.py."
    assert message(text) == text


def test_parameters_become_options() -> None:
    text = advice("Give a larger timeout_seconds, or create one with network 'public'.")
    assert text == "Give a larger --timeout-seconds, or create one with --network public."
    assert (
        advice("create_environment(snapshot=...) goes on from it.")
        == "'waggle env new --snapshot' goes on from it."
    )


def test_a_refusal_keeps_its_parts() -> None:
    failure = Failure("busy", "It is busy.", "Use list_environments.", retry_after=3)
    refusal = refused("execute", result_for(Reply(None, ["some output"], failure=failure), Offer()))
    assert (refusal.message, refusal.hint) == ("It is busy.", "Use 'waggle env ls'.")
    assert (refusal.reason, refusal.wait, refusal.result) == ("busy", 3, {})


def test_a_tool_that_is_not_offered_names_the_setting() -> None:
    refusal = refused(
        "wait_job", result_for(failed(unknown_tool("wait_job", ["execute"])), Offer())
    )
    assert "WAGGLE_TOOLSETS" in refusal.hint
    assert not A_TOOL.search(str(refusal))


def test_a_list_of_parameters_is_not_shown() -> None:
    failure = Failure("invalid_argument", "There is no parameter 'x'.", "execute takes: code.")
    assert refused("execute", result_for(failed(failure), Offer())).hint == ""


def test_an_error_without_a_code_keeps_its_text() -> None:
    result = CallToolResult(content=[TextContent(type="text", text="No.")], is_error=True)
    assert refused("execute", result).message == "No."
