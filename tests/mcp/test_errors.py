# SPDX-License-Identifier: Apache-2.0
"""Failures as results: the cause and the next step, without internals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from structlog.testing import capture_logs
from tests.support.server import LEGACY, MODERN, client, created, error_of, serving, text_of

from waggle.domain.errors import (
    ArchiveNotFound,
    BootFailed,
    GuestLost,
    NotFound,
    TooManyPorts,
    WaggleError,
)
from waggle.domain.toolset import Offer, Toolset
from waggle.mcp.errors import MAX_TEXT, clean, describe

pytestmark = pytest.mark.anyio
UNKNOWN = "99999999-0000-4000-8000-000000000000"


def wrapped(cause: BaseException) -> ToolError:
    """Return an exception wrapped as the SDK passes it."""
    error = UnexpectedToolError("Error executing tool x")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("kind", WaggleError.__subclasses__())
def test_every_waggle_error_is_described_with_its_code(kind: type[WaggleError]) -> None:
    failure = describe("execute", wrapped(kind("It failed.", hint="Do this.")))
    assert (failure.code, failure.text) == (kind.code, "It failed. Do this.")
    assert failure.retryable is kind.retryable


def test_an_error_inside_groups_is_found() -> None:
    inner = ExceptionGroup("unhandled", [ExceptionGroup("unhandled", [GuestLost("It died.")])])
    assert describe("execute", wrapped(inner)).code == "guest_lost"
    both = ExceptionGroup("unhandled", [GuestLost("It died."), OSError("secret")])
    assert describe("execute", wrapped(both)).code == "internal"


def test_a_crash_is_reported_as_an_id_that_is_in_the_log() -> None:
    with capture_logs() as logs:
        failure = describe("execute", wrapped(KeyError("secret")), new_id=lambda: "abc123")
    assert failure.code == "internal"
    assert "abc123" in failure.text
    assert "secret" not in failure.text
    (entry,) = logs
    assert (entry["event"], entry["error_id"]) == ("tool_crashed", "abc123")
    assert isinstance(entry["exc_info"], KeyError)


def test_guest_text_in_an_error_is_cleaned_and_shortened() -> None:
    error = BootFailed("Console: \x1b[31mred\x07\u202e\ud800\r\nline\ttab" + "x" * 9_000)
    text = describe("create_environment", wrapped(error)).message
    assert text.startswith("Console: \ufffd[31mred\ufffd\ufffd\ufffd\ufffd\nline\ttab")
    assert len(text) < MAX_TEXT + 10
    text.encode()


@given(st.text(st.characters(), max_size=50))
def test_cleaned_text_is_printable(text: str) -> None:
    cleaned = clean(text)
    assert all(c.isprintable() or c in "\n\t" for c in cleaned)
    assert len(cleaned) == len(text)


BAD_CALLS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no such tool": ("nope", {}, "unknown_tool", "There is no tool 'nope'."),
    "missing": ("execute", {}, "invalid_argument", "'code' is missing"),
    "unknown": (
        "list_environments",
        {"verbose\x00" + "y" * 500: True},
        "invalid_argument",
        "There is no parameter 'verbose",
    ),
    "type": (
        "create_environment",
        {"runtime": "python", "timeout_minutes": "soon"},
        "invalid_argument",
        "'timeout_minutes'",
    ),
    "size": (
        "create_environment",
        {"runtime": "python", "memory_mb": 1_000_000},
        "invalid_argument",
        "memory_mb must be 128 to",
    ),
    "nested": (
        "execute",
        {"code": "x", "env": {"A": ["x"]}},
        "invalid_argument",
        "'A' in env",
    ),
    "runtime": ("create_environment", {"runtime": "ruby"}, "invalid_runtime", "'ruby'"),
    "network": (
        "create_environment",
        {"runtime": "python", "network": "all"},
        "invalid_argument",
        "'all'",
    ),
    "minutes": (
        "create_environment",
        {"runtime": "python", "timeout_minutes": 10**30},
        "invalid_argument",
        "timeout_minutes",
    ),
    "name": (
        "create_environment",
        {"runtime": "python", "name": "../etc"},
        "invalid_argument",
        "'../etc'",
    ),
    "id": ("execute", {"environment_id": "a/1", "code": "x"}, "invalid_argument", "'a/1'"),
    "no environment": ("list_files", {"environment_id": UNKNOWN}, "not_found", UNKNOWN),
    "destroy unknown": ("destroy_environment", {"environment_id": UNKNOWN}, "not_found", UNKNOWN),
}


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_mistakes_are_results_in_both_eras(era: str) -> None:
    async with serving() as rig, client(rig, era) as connected:
        for tool, arguments, code, words in BAD_CALLS.values():
            result = await connected.call_tool(tool, arguments)
            error = error_of(result)
            assert error["code"] == code
            assert words in error["message"]
            assert text_of(result) == f"{error['message']} {error['hint']}".strip()
            assert result.structured_content is None
            assert "pydantic" not in text_of(result)
            assert len(text_of(result)) < 550


IN_ENVIRONMENT: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "empty code": ("execute", {"code": " \n"}, "invalid_argument", "empty"),
    "long code": ("execute", {"code": "#" * 512_001}, "too_large", "512001 bytes"),
    "NUL code": ("execute", {"code": "a\0b"}, "invalid_argument", "NUL"),
    "language": ("execute", {"code": "x", "language": "perl"}, "invalid_runtime", "'perl'"),
    "negative": (
        "execute",
        {"code": "x", "timeout_seconds": -1},
        "invalid_argument",
        "more than 0",
    ),
    "huge": ("execute", {"code": "x", "timeout_seconds": 1e300}, "invalid_argument", "at most 300"),
    "variable": ("execute", {"code": "x", "env": {"A=B": ""}}, "invalid_argument", "'='"),
    "directory": ("write_file", {"path": "/tmp", "content": ""}, "file_refused", "directory"),
    "mode": ("write_file", {"path": "a", "content": "", "mode": "rw"}, "invalid_argument", "'rw'"),
    "base64": (
        "write_file",
        {"path": "a", "content": "?", "encoding": "base64"},
        "invalid_argument",
        "base64",
    ),
    "encoding": (
        "write_file",
        {"path": "a", "content": "", "encoding": "rot13"},
        "invalid_argument",
        "'encoding'",
    ),
    "no file": ("read_file", {"path": "missing"}, "file_not_found", "missing"),
    "NUL path": ("read_file", {"path": "a\0b"}, "invalid_argument", "NUL"),
    "empty path": ("read_file", {"path": ""}, "invalid_argument", "empty"),
    "offset": ("read_file", {"path": "a", "offset": -1}, "invalid_argument", "'offset'"),
    "no packages": ("install_packages", {"packages": "  "}, "invalid_argument", "No package"),
    "option": (
        "install_packages",
        {"packages": "--index-url"},
        "invalid_argument",
        "'--index-url'",
    ),
    "command": ("install_packages", {"packages": "npm ci"}, "invalid_argument", "'npm ci'"),
}


async def test_mistakes_in_an_environment_are_results_and_it_stays_usable() -> None:
    async with serving() as rig, client(rig) as connected:
        environment = {"environment_id": await created(connected)}
        for tool, arguments, code, words in IN_ENVIRONMENT.values():
            result = await connected.call_tool(tool, {**environment, **arguments})
            assert error_of(result)["code"] == code, (tool, arguments)
            assert words in error_of(result)["message"]
        fine = await connected.call_tool("execute", {**environment, "code": "echo hi"})
        assert not fine.is_error


async def test_capacity_and_boot_failures_are_results_with_a_next_step() -> None:
    async with serving() as rig, client(rig) as connected:
        rig.host.create_error = BootFailed("The guest did not start.\nkernel panic\x07")
        failed = await connected.call_tool("create_environment", {"runtime": "python"})
        assert error_of(failed)["code"] == "boot_failed"
        assert error_of(failed)["retryable"] is True
        assert "kernel panic\ufffd" in text_of(failed)
        rig.host.create_error = None
        for _ in range(3):
            await created(connected)
        full = await connected.call_tool("create_environment", {"runtime": "python"})
        assert error_of(full)["code"] == "max_environments"
        assert "Destroy an environment" in text_of(full)


@pytest.mark.parametrize("error", [RuntimeError("/secret/path"), OSError("secret"), NotFound("x")])
async def test_a_crash_inside_a_call_leaves_the_session_working(error: Exception) -> None:
    async with serving() as rig, client(rig) as connected:
        environment = await created(connected)
        rig.host.only.run_error = error
        arguments = {"environment_id": environment, "code": "echo hi"}
        result = await connected.call_tool("execute", arguments)
        assert result.is_error
        assert "secret" not in result.model_dump_json()
        rig.host.only.run_error = None
        assert not (await connected.call_tool("execute", arguments)).is_error


async def test_the_death_of_a_guest_during_a_call_is_reported() -> None:
    async with serving() as rig, client(rig) as connected:
        environment = await created(connected)
        arguments = {"environment_id": environment, "code": "die"}
        result = await connected.call_tool("execute", arguments)
        assert error_of(result)["code"] == "guest_lost"
        assert "create a new environment" in text_of(result)
        after = await connected.call_tool("execute", arguments)
        assert error_of(after)["code"] == "not_running"
        listed = await connected.call_tool("list_environments", {})
        assert "killed by signal 9" in text_of(listed)


@pytest.mark.parametrize("kind", WaggleError.__subclasses__())
def test_hints_keep_a_next_step_if_only_the_core_is_offered(kind: type[WaggleError]) -> None:
    core = Offer(frozenset({Toolset.CORE}))
    needs_more = kind in {TooManyPorts, ArchiveNotFound}
    assert bool(core.advice(kind.default_hint)) is (bool(kind.default_hint) and not needs_more)
