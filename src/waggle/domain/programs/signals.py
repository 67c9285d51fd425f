# SPDX-License-Identifier: Apache-2.0
"""What the signals that end programs mean, in words. Pure; numbers are Linux's on x86-64."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Told:
    """A signal's meaning and what to do about it."""

    cause: str
    next_step: str


_FAULT = "Look for the fault in native code: the last lines printed, a debugger, fewer extensions."
_ASKED = "Find out what ended it (kill, timeout, a supervisor); otherwise run it again."

_SIGNALS: dict[int, tuple[str, Told]] = {
    1: ("SIGHUP", Told("its terminal or session ended", _ASKED)),
    2: ("SIGINT", Told("it was interrupted", _ASKED)),
    3: ("SIGQUIT", Told("it was told to quit", _ASKED)),
    4: ("SIGILL", Told("an instruction that this processor does not have", _FAULT)),
    5: ("SIGTRAP", Told("it ran into a breakpoint or an assertion", _FAULT)),
    6: ("SIGABRT", Told("it aborted itself, as a failed assertion does", _FAULT)),
    7: ("SIGBUS", Told("memory that is not there, as of a file that was cut", _FAULT)),
    8: ("SIGFPE", Told("impossible arithmetic, as a division by zero", _FAULT)),
    9: ("SIGKILL", Told("something in the environment killed it", _ASKED)),
    10: ("SIGUSR1", Told("a signal that it did not handle", _ASKED)),
    11: ("SIGSEGV", Told("it used memory that is not its own", _FAULT)),
    12: ("SIGUSR2", Told("a signal that it did not handle", _ASKED)),
    13: ("SIGPIPE", Told("it wrote where nobody reads any more", "Read all of its output.")),
    14: ("SIGALRM", Told("its own alarm went off", "Give it more time or handle the alarm.")),
    15: ("SIGTERM", Told("it was asked to end", _ASKED)),
    24: ("SIGXCPU", Told("it used more processor time than its limit", "Raise ulimit -t.")),
    25: ("SIGXFSZ", Told("it wrote a larger file than its limit", "Raise ulimit -f.")),
    31: ("SIGSYS", Told("a system call that a filter forbids", _FAULT)),
}
_BY_NAME = dict(_SIGNALS.values())
_UNKNOWN = Told("a signal that it did not handle", _ASKED)


def name_of(number: int) -> str | None:
    """The name of a signal that ends programs, or None."""
    known = _SIGNALS.get(number)
    return known[0] if known else None


def told(name: str) -> Told:
    """The meaning of a signal by its name; something true of every signal for the others."""
    return _BY_NAME.get(name, _UNKNOWN)
