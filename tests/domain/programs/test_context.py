# SPDX-License-Identifier: Apache-2.0
"""Names of contexts, the programs that can be one, and the words about their end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import GuestUser, Output
from waggle.domain.programs.context import (
    ContextKey,
    context_ended,
    driver_argv,
    ending_of,
    in_context,
    interrupted,
    parse_context,
)
from waggle.domain.programs.job import JobKind, JobState, JobView
from waggle.domain.programs.runtime import Runtime, RuntimeName

MAIN = ContextKey("main", RuntimeName.PYTHON)
VIEW = JobView(
    environment_id="e",
    number=1,
    kind=JobKind.CONTEXT,
    summary="python main",
    state=JobState.RUNNING,
    duration=1.0,
    stdout=Output(b""),
    stderr=Output(b""),
)


@pytest.mark.parametrize("name", ["main", "a", "A.b-c_9", "9", "x" * 32, " main "])
def test_usable_names(name: str) -> None:
    assert parse_context(name) == name.strip()


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", ".", "..", "../main", "/etc/passwd", "a/b", "-a", "_a", ".hidden"),
        *(
            "x" * 33,
            "x" * 10_000,
            "a b",
            "a\nb",
            "main\n\n;",
            "a\0b",
            "é",
            "\u202e",
            "main;id",
            "$(id)",
        ),
    ],
)
def test_names_that_are_refused_are_shown_shortly(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_context(name)
    assert len(caught.value.message) < 250
    assert "\n" not in caught.value.message
    assert "leave it out" in caught.value.hint


@pytest.mark.parametrize(
    "name, program, driver",
    [
        (RuntimeName.PYTHON, "python3", "context.py"),
        (RuntimeName.PYTHON, "/usr/bin/python3.13", "context.py"),
        (RuntimeName.DATA, "python", "context.py"),
        (RuntimeName.NODE, "node", "context.js"),
        (RuntimeName.NODE, "/usr/bin/nodejs", "context.js"),
        (RuntimeName.SHELL, "bash", "context.sh"),
        (RuntimeName.SHELL, "/bin/sh", "context.sh"),
        (RuntimeName.SHELL, "{shell}", "context.sh"),
    ],
)
def test_drivers(name: RuntimeName, program: str, driver: str) -> None:
    runtime = Runtime(name, ".x", (program, "{file}"), ("install", "{packages}"))
    assert driver_argv(runtime) == (program, f"/.waggle/runners/{driver}")


@pytest.mark.parametrize(
    "name, program",
    [
        (RuntimeName.PYTHON, "pypy3"),
        (RuntimeName.PYTHON, "python3-wrapper"),
        (RuntimeName.PYTHON, "uv"),
        (RuntimeName.PYTHON, "node"),
        (RuntimeName.NODE, "deno"),
        (RuntimeName.SHELL, "fish"),
        (RuntimeName.SHELL, "/bin/busybox"),
        (RuntimeName.SHELL, "x" * 500),
    ],
)
def test_programs_without_a_driver(name: RuntimeName, program: str) -> None:
    runtime = Runtime(name, ".x", (program, "{file}"), ("install", "{packages}"))
    with pytest.raises(InvalidArgument, match="There are no contexts for") as caught:
        driver_argv(runtime)
    assert len(caught.value.message) < 150
    assert "Leave context out" in caught.value.hint


def test_contexts_of_other_names_languages_and_users_have_queues_of_their_own() -> None:
    keys = [
        MAIN,
        replace(MAIN, name="other"),
        replace(MAIN, language=RuntimeName.SHELL),
        replace(MAIN, user=GuestUser.ROOT),
    ]
    assert len({key.queue for key in keys}) == len(set(keys)) == len(keys)
    assert ContextKey("main", RuntimeName.PYTHON) == MAIN


def test_what_is_said_of_new_processes_is_not_said_of_code_in_a_context() -> None:
    assert in_context(Diagnosis("not_defined", "A new process.", "Define it.")) is None
    other = Diagnosis("disk_full", "Full.", "")
    assert in_context(other) is other
    assert in_context(None) is None


def test_an_interrupt_keeps_the_context() -> None:
    found = interrupted(MAIN)
    assert found.code == "interrupted"
    assert "the variables of the python context main are kept" in found.cause


OUT_OF_MEMORY = Diagnosis("out_of_memory", "Out of memory at 512 MiB.", "Use more memory_mb.")


@pytest.mark.parametrize(
    "view, why",
    [
        (replace(VIEW, state=JobState.EXITED, exit_code=3), "it exited with code 3"),
        (replace(VIEW, state=JobState.SIGNALED, signal="SIGSEGV"), "it was ended by SIGSEGV"),
        (replace(VIEW, state=JobState.KILLED), "it was killed"),
        (replace(VIEW, state=JobState.LOST), "it was lost"),
        (VIEW, "it does not take code any more"),
        (
            replace(VIEW, state=JobState.SIGNALED, signal="SIGKILL", diagnosis=OUT_OF_MEMORY),
            "Out of memory at 512 MiB",
        ),
    ],
)
def test_the_end_of_a_context_says_why_and_what_is_lost(view: JobView, why: str) -> None:
    assert ending_of(view) == why
    found = context_ended(MAIN, why, view.diagnosis)
    assert found.code == "context_ended"
    assert f"python context main has ended ({why}), and its variables are lost" in found.cause
    assert found.next_step.endswith("The next call with this context starts a new one.")
    assert ("memory_mb" in found.next_step) == (view.diagnosis is not None)
