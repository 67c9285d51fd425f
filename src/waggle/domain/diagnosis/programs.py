# SPDX-License-Identifier: Apache-2.0
"""Rules about how a program began and ended, and about lack of memory, processes or disk. Pure."""

from __future__ import annotations

import errno
import os

from waggle.domain.diagnosis import Diagnosis, Evidence, Space, mib, shown

_FULL_BYTES = 64 << 10
"""A file system with less than this free is full: larger blocks are rarely left over."""
_FULL_INODES = 1
_MANY_SHARED = 0.25
_SHM = "/dev/shm"  # noqa: S108 - a name in a sentence


def out_of_memory(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a run of which the kernel killed processes for lack of memory."""
    record = evidence.record
    if record.oom_kills < 1:
        return None
    limit = f", of which programs share {mib(record.memory_limit)}" if record.memory_limit else ""
    most = f" This run used up to {mib(record.memory_peak)} MiB." if record.memory_peak else ""
    advice = "Use less memory: read data in pieces, run fewer processes at once."
    if record.memory_shared > _MANY_SHARED * max(record.memory_limit, 1):
        advice = (
            f"Delete files in {_SHM} and other memory file systems, which hold "
            f"{mib(record.memory_shared)} MiB, or use less memory otherwise."
        )
    return Diagnosis(
        "out_of_memory",
        f"Out of memory at {evidence.memory_mib} MiB{limit}: the guest's kernel killed the run."
        f"{most}",
        f"{advice} {more_memory(evidence)}",
    )


def more_memory(evidence: Evidence) -> str:
    """Return the call that gives more memory."""
    return f"Or take one with more: create_environment with memory_mb={2 * evidence.memory_mib}."


def more_disk(evidence: Evidence) -> str:
    """Return how to free disk space, and the call that gives more."""
    return (
        "Delete what is not needed (du -x -d 3 -m / | sort -n shows what is large). Or take one "
        f"with more: create_environment with disk_mb={2 * evidence.disk_mib}."
    )


def too_many_processes(evidence: Evidence) -> Diagnosis | None:
    """Diagnose forks that the kernel refused."""
    record = evidence.record
    if record.forks_refused < 1:
        return None
    return Diagnosis(
        "too_many_processes",
        f"While it ran, the environment was at its limit of {record.process_limit} processes and "
        f"threads; {record.forks_refused} more were refused.",
        "Start fewer at once and wait for their end; read_job with kill ends those that still run.",
    )


def is_full(evidence: Evidence) -> bool:
    """Whether nothing more can be written to the disk."""
    disk, inodes = evidence.record.disk, evidence.record.inodes
    return (disk is not None and disk.free < _FULL_BYTES) or (
        inodes is not None and inodes.total > 0 and inodes.free < _FULL_INODES
    )


def disk_full(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a disk to which nothing more can be written."""
    disk, inodes = evidence.record.disk, evidence.record.inodes
    if not is_full(evidence):
        return None
    what = f"The disk has no room for another file: all {inodes.total if inodes else 0:,} are taken"
    if disk is not None and disk.free < _FULL_BYTES:
        what = f"The disk is full: {_room(disk)}"
    return Diagnosis("disk_full", f"{what}. Writing fails.", more_disk(evidence))


def _room(space: Space) -> str:
    return f"{mib(space.free)} of {mib(space.total)} MiB are free"


def memory_files_full(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a file system in memory to which nothing more can be written."""
    shm = evidence.record.shm
    if shm is None or shm.total == 0 or shm.free >= _FULL_BYTES:
        return None
    return Diagnosis(
        "disk_full",
        f"{_SHM} is full: {_room(shm)}. Writing there fails.",
        "Delete what is not needed there, or write to the disk: /tmp and the home directory.",
    )


_MAX_ERRNO = 4096
_GIVEN_UP = frozenset({2, 126, 127})
"""Exit codes of shells: wrong syntax, not executable, not found."""


def cannot_execute(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a program that the launcher could not execute, from its errno."""
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
                "not_executable", f"{file} could not be started: {_words(number)}.", "Mend that."
            )


def line_ends(evidence: Evidence) -> Diagnosis | None:
    """Diagnose the failure of a shell whose run named a script with the line ends of Windows."""
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
    """Diagnose a directory to run in that the launcher could not enter, from its errno."""
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
    """Return the guest's error number, which may be any number, in words."""
    return os.strerror(number) if number < _MAX_ERRNO else f"error {number}"


_FAULT = "Look for the fault in native code: the last lines printed, a debugger, fewer extensions."
_FIND_SENDER = "Find out what ended it (kill, timeout, a supervisor); otherwise run it again."
_UNHANDLED = "a signal that it did not handle"
_SIGNALS: dict[int, tuple[str, str, str]] = {
    1: ("SIGHUP", "its terminal or session ended", _FIND_SENDER),
    2: ("SIGINT", "it was interrupted", _FIND_SENDER),
    3: ("SIGQUIT", "it was asked to quit", _FIND_SENDER),
    4: ("SIGILL", "an instruction that this processor does not have", _FAULT),
    5: ("SIGTRAP", "it ran into a breakpoint or an assertion", _FAULT),
    6: ("SIGABRT", "it aborted itself, as a failed assertion does", _FAULT),
    7: ("SIGBUS", "memory that is not there, as of a file that was cut", _FAULT),
    8: ("SIGFPE", "impossible arithmetic, as a division by zero", _FAULT),
    9: ("SIGKILL", "something in the environment killed it", _FIND_SENDER),
    10: ("SIGUSR1", _UNHANDLED, _FIND_SENDER),
    11: ("SIGSEGV", "it used memory that is not its own", _FAULT),
    12: ("SIGUSR2", _UNHANDLED, _FIND_SENDER),
    13: ("SIGPIPE", "it wrote to a pipe that no program reads", "Read all of its output."),
    14: ("SIGALRM", "its own alarm went off", "Give it more time or handle the alarm."),
    15: ("SIGTERM", "it was asked to end", _FIND_SENDER),
    24: ("SIGXCPU", "it used more processor time than its limit", "Raise ulimit -t."),
    25: ("SIGXFSZ", "it wrote a larger file than its limit", "Raise ulimit -f."),
    31: ("SIGSYS", "a system call that a filter forbids", _FAULT),
}
"""Name, cause and next step by number: Linux's on x86-64."""
_MEANINGS = {name: (cause, step) for name, cause, step in _SIGNALS.values()}


def killed(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a program that a signal ended, as the kernel reported to the launcher."""
    number, name = evidence.record.signal, evidence.signal
    if name is None and number is not None and evidence.exit_code is not None:
        name = _SIGNALS.get(number, (None,))[0]
    if name is None or (name == "SIGBUS" and is_full(evidence)):
        return None
    cause, next_step = _MEANINGS.get(name, (_UNHANDLED, _FIND_SENDER))
    return Diagnosis("killed_by_signal", f"Signal {shown(name)} ended it: {cause}.", next_step)


def code_of_shell(evidence: Evidence) -> Diagnosis | None:
    """Diagnose an exit code to which shells give a meaning, which is no proof."""
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
    known = _SIGNALS.get(code - 128) if code is not None else None
    if known is None:
        return None
    name, cause, next_step = known
    return Diagnosis(
        "killed_by_signal",
        f"Exit code {code} is how a shell says that {name} ended a command ({cause}); it is "
        "no proof, a program may also have chosen it.",
        next_step,
    )
