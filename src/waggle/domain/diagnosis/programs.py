# SPDX-License-Identifier: Apache-2.0
"""Rules about how a program began and ended. Pure."""

from __future__ import annotations

import errno
import os

from waggle.domain.diagnosis.evidence import Evidence
from waggle.domain.diagnosis.resources import is_full
from waggle.domain.diagnosis.told import Diagnosis, shown
from waggle.domain.programs import signals

_MAX_ERRNO = 4096
_GIVEN_UP = frozenset({2, 126, 127})
"""Exit codes of shells: wrong syntax, not executable, not found."""


def cannot_execute(evidence: Evidence) -> Diagnosis | None:
    """The launcher could not execute it, and knows why."""
    record = evidence.record
    file, needs = shown(record.file or evidence.program), shown(record.needs)
    match record.exec_error:
        case None:
            return None
        case errno.ENOENT if record.needs_carriage_return:
            return Diagnosis(
                "interpreter_not_found",
                f"{file} cannot run: its first line ends with a carriage return, so that it names "
                "an interpreter which does not exist.",
                "Save the file with Unix line ends (sed -i 's/\\r$//' FILE).",
            )
        case errno.ENOENT if record.needs:
            return Diagnosis(
                "interpreter_not_found",
                f"{file} is there, but {needs}, the interpreter or loader that it names, is not.",
                "Install that interpreter or correct the script's first line; for a binary, use "
                "one that was built for this image's C library.",
            )
        case errno.EACCES:
            return Diagnosis(
                "not_executable",
                f"{file} may not be executed by the user that programs run as.",
                "Set its mode (chmod +x FILE), or give the file to its interpreter (sh FILE). A "
                "directory cannot be executed at all.",
            )
        case errno.ENOEXEC:
            return Diagnosis(
                "not_executable",
                f"{file} is not a program for this machine: neither an x86-64 binary nor a script "
                "whose first line names an interpreter.",
                "Give the script a first line such as #!/bin/sh, or use an x86-64 binary.",
            )
        case number:
            return Diagnosis(
                "not_executable",
                f"{file} could not be started: {_words(number)}.",
                "Mend that.",
            )


def line_ends(evidence: Evidence) -> Diagnosis | None:
    """A shell gave up on something, and the run named a script with the line ends of Windows."""
    record = evidence.record
    if not record.needs_carriage_return or evidence.exit_code not in _GIVEN_UP:
        return None
    return Diagnosis(
        "windows_line_ends",
        f"{shown(record.needs)} has Windows line ends (CRLF): its first line ends with a carriage "
        "return, which a shell takes for a part of the last word.",
        "Save the file with Unix line ends (sed -i 's/\\r$//' FILE).",
    )


def cannot_enter(evidence: Evidence) -> Diagnosis | None:
    """The launcher could not enter the directory to run in, and knows why."""
    match evidence.record.directory_error:
        case None:
            return None
        case errno.ENOENT | errno.ENOTDIR:
            return Diagnosis(
                "no_working_directory",
                "The directory to run in does not exist, or is no directory; nothing was run.",
                "Make it first (mkdir -p DIRECTORY), give another cwd, or leave cwd out.",
            )
        case number:
            return Diagnosis(
                "no_working_directory",
                f"The directory to run in could not be entered: {_words(number)}; nothing was run.",
                "Mend its mode (chmod, as root), give another cwd, or leave cwd out.",
            )


def _words(number: int) -> str:
    """The guest's error number in words; it may be any number."""
    return os.strerror(number) if number < _MAX_ERRNO else f"error {number}"


def killed(evidence: Evidence) -> Diagnosis | None:
    """A signal ended it, as the kernel told the launcher."""
    number, name = evidence.record.signal, evidence.signal
    if name is None and number is not None and evidence.exit_code is not None:
        name = signals.name_of(number)
    if name is None or (name == "SIGBUS" and is_full(evidence)):
        return None
    told = signals.told(name)
    return Diagnosis(
        "killed_by_signal", f"Signal {shown(name)} ended it: {told.cause}.", told.next_step
    )


def code_of_shell(evidence: Evidence) -> Diagnosis | None:
    """Its exit code is one that shells use for something; that is no proof."""
    code = evidence.exit_code
    if code == 127:
        return Diagnosis(
            "command_not_found",
            "Exit code 127 is how a shell says that a command was not found; a program may also "
            "have chosen it.",
            "Check on stderr which one, and its path.",
        )
    if code == 126:
        return Diagnosis(
            "not_executable",
            "Exit code 126 is how a shell says that a file could not be executed; a program may "
            "also have chosen it.",
            "Check on stderr which one, its mode (chmod +x) and its first line.",
        )
    name = signals.name_of(code - 128) if code is not None and 128 < code < 160 else None
    if name is None:
        return None
    told = signals.told(name)
    return Diagnosis(
        "killed_by_signal",
        f"Exit code {code} is how a shell says that {name} ended a command ({told.cause}); it is "
        "no proof, a program may also have chosen it.",
        told.next_step,
    )
