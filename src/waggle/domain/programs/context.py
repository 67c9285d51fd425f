# SPDX-License-Identifier: Apache-2.0
"""A context: a live interpreter of an environment, in which code runs cell by cell. Pure.

Variables, imports, functions and the working directory stay from one cell to the next. The kit has
a driver for each language (rootfs/kit/guest, context.*), which the image's own interpreter runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import GuestUser
from waggle.domain.programs.job import JobState, JobView
from waggle.domain.programs.runtime import Runtime, RuntimeName

MAX_CONTEXTS = 8
"""The most contexts of one environment."""
CONTEXT_SECONDS = 30 * 86_400.0
"""How long a context lives at most; it ends with its environment anyway."""
SPARE_CONTEXT = "00000000-0000-4000-8000-000000000000"
"""The guest's id of a context that a template holds ready, for whoever starts one of that id first.
In a machine without such a template it is an id like any other."""
WARM = "--warm"
"""Has a driver load what a first cell needs, and print a line when it has."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_DRIVERS = (
    (RuntimeName.PYTHON, re.compile(r"(?:.*/)?python[0-9.]*"), "context.py"),
    (RuntimeName.NODE, re.compile(r"(?:.*/)?node(?:js)?"), "context.js"),
    (RuntimeName.SHELL, re.compile(r"(?:.*/)?(?:ba|da|a)?sh|\{shell\}"), "context.sh"),
)
_BUSYBOX = re.compile(r"(?:.*/)?busybox")
RUNNERS = "/.waggle/runners"
"""Where the kit has its drivers, and modules for them and for programs."""


@dataclass(frozen=True, slots=True)
class ContextKey:
    """What tells the contexts of one environment apart."""

    name: str
    language: RuntimeName
    user: GuestUser = GuestUser.SANDBOX

    @property
    def queue(self) -> str:
        """The queue in which its cells wait for each other."""
        return f"context {self.language} {self.user} {self.name}"

    @property
    def label(self) -> str:
        """Name it in a list."""
        whose = " of root" if self.user is GuestUser.ROOT else ""
        return f"{self.language} {self.name}{whose}"

    def __str__(self) -> str:
        """Name it in a sentence."""
        return f"the {self.language} context {self.name}"


def parse_context(name: str) -> str:
    """Return a usable name. Raises InvalidArgument."""
    if not _NAME.fullmatch(name.strip()):
        raise InvalidArgument(
            f"{name[:40]!r} cannot be the name of a context.",
            hint='Use 1 to 32 letters, digits, "_", "-" or ".", such as "main"; leave it out for '
            "a new process.",
        )
    return name.strip()


def driver_argv(runtime: Runtime) -> tuple[str, ...]:
    """Return the command of a context's interpreter. Raises InvalidArgument if it has no driver."""
    words = runtime.exec_command[: 2 if _BUSYBOX.fullmatch(runtime.exec_command[0]) else 1]
    program = words[-1]
    for language, pattern, driver in _DRIVERS:
        if runtime.name.language is language and pattern.fullmatch(program):
            return (*words, f"{RUNNERS}/{driver}")
    raise InvalidArgument(
        f"There are no contexts for {program[:60]}, the interpreter of {runtime.name}.",
        hint="Leave context out: the code runs in a new process.",
    )


def in_context(found: Diagnosis | None) -> Diagnosis | None:
    """Return the diagnosis of code in a context; what is said of new processes is untrue there."""
    return None if found is not None and found.code == "not_defined" else found


def interrupted(key: ContextKey) -> Diagnosis:
    """Return what became of the context of code that ran out of time, or was killed."""
    return Diagnosis(
        "interrupted", f"The code was interrupted; the variables of {key} are kept.", ""
    )


def context_ended(key: ContextKey, why: str, known: Diagnosis | None = None) -> Diagnosis:
    """Return that a context has ended, and with it the code in it; `known` is its own diagnosis."""
    step = known.next_step if known else ""
    return Diagnosis(
        "context_ended",
        f"The interpreter of {key} has ended ({why}), and its variables are lost.",
        f"{step} The next call with this context starts a new one.".strip(),
    )


def ending_by_interrupt(context: JobView) -> str:
    """Return how a context ended whose code was interrupted, and then it killed if need be."""
    if context.exit_code is None and context.signal in (None, "SIGKILL"):
        return "its code did not react to an interrupt"
    return ending_of(context)


def ending_of(context: JobView) -> str:
    """Return how a context ended, to go on a sentence."""
    if context.diagnosis is not None:
        return context.diagnosis.cause.rstrip(".")
    if context.state is JobState.RUNNING:
        return "it does not take code any more"
    if context.state is JobState.EXITED:
        return f"it exited with code {context.exit_code}"
    if context.state is JobState.SIGNALED:
        return f"it was ended by {context.signal}"
    return "it was killed" if context.state is JobState.KILLED else "it was lost"
