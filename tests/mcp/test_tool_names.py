# SPDX-License-Identifier: Apache-2.0
"""Names of other agents' tools, and the tool of waggle that does the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.toolset import ALL_TOOLS, TOOLS, Toolset
from waggle.mcp.tool_names import WAYS, meant

CORE = TOOLS[Toolset.CORE]
SHELL = 'execute with language "shell"'


@pytest.mark.parametrize(
    "name, way",
    [
        *((name, SHELL) for name in ("bash", "Bash", "shell", "terminal", "computer")),
        *((name, SHELL) for name in ("run_shell_command", "exec_command", "runInTerminal")),
        *((name, SHELL) for name in ("run_terminal_cmd", "container.exec", "delete_file")),
        *((name, "execute") for name in ("python", "run_code", "code_interpreter", "Execute")),
        *((name, "execute") for name in ("mcp__waggle__execute", "functions.execute", "repl")),
        *((name, "read_file") for name in ("Read", "view", "cat", "readFile", "read-file")),
        *((name, "write_file") for name in ("Write", "create_file", "fs_write", "waggle_write")),
        *((name, "list_files") for name in ("LS", "list_directory", "ls", "list_dir")),
        *((name, "install_packages") for name in ("pip_install", "npm", "installPackages")),
        *((name, "read_job") for name in ("BashOutput", "wait_job", "list_jobs")),
        *((name, "read_job with kill") for name in ("KillShell", "kill_job", "kill_process")),
        *((name, "create_environment") for name in ("create_sandbox", "start_vm")),
        *((name, "destroy_environment") for name in ("delete_sandbox", "kill_sandbox")),
        ("list_sandboxes", "list_environments"),
        ("write_stdin", ""),
        ("apply_patch", "edit_file; read_file shows a file, write_file makes one"),
        ("str_replace_editor", "edit_file; read_file shows a file, write_file makes one"),
        ("Grep", f"{SHELL} and grep or find"),
        ("get_environment", "list_environments"),
        ("expose_port", ""),
        ("weather", ""),
        ("", ""),
        ("__", ""),
    ],
)
def test_an_unknown_name_gives_the_equivalent_tool(name: str, way: str) -> None:
    assert meant(name, CORE) == way


@pytest.mark.parametrize(
    "name, offered, way",
    [
        ("grep", ALL_TOOLS, "search_files"),
        ("get_preview_url", ALL_TOOLS, "expose_port"),
        *((name, ALL_TOOLS, "write_job") for name in ("write_stdin", "interactWithProcess")),
        ("bash", ["run_command"], "run_command"),
        ("execute", ["run_code"], "run_code"),
        ("bash", ["read_file"], ""),
        ("edit", ["edit_file", "read_file"], "edit_file"),
    ],
)
def test_only_offered_tools_are_named(name: str, offered: list[str], way: str) -> None:
    assert meant(name, offered) == way


def test_every_suggestion_begins_with_an_existing_tool() -> None:
    first = {way.replace(";", " ").partition(" ")[0] for ways in WAYS.values() for way in ways}
    assert first <= set(ALL_TOOLS)


@given(st.text(max_size=300), st.sets(st.sampled_from(ALL_TOOLS)))
def test_any_name_gives_an_offered_tool_or_none(name: str, offered: set[str]) -> None:
    way = meant(name, offered)
    assert not way or way.replace(";", " ").partition(" ")[0] in offered
