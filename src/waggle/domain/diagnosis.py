# SPDX-License-Identifier: Apache-2.0
"""Why a run failed and what to do next, judged from evidence. Pure.

Used by `waggle.service.diagnosing`. `RULES` is the table: the first rule that can say something
does. A rule says only what its evidence proves; no rule looks at what the program printed, and a
failure of which nothing is known has no diagnosis.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from waggle.domain import signals
from waggle.domain.evidence import Evidence, Refused, Space
from waggle.domain.network import NetworkPolicy
from waggle.domain.runtime import RuntimeName

MAX_NAME = 120
_MIB = 1 << 20
_FULL_BYTES = 64 << 10
"""A file system with less than this free is full: blocks that large are rarely left over."""
_FULL_INODES = 1
_MANY_SHARED = 0.25
_SHOWN_REFUSALS = 3
_SHM = "/dev/shm"  # noqa: S108 - a name in a sentence


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`code` is stable and machine-readable; the two sentences are for a person or a model."""

    code: str
    cause: str
    next_step: str

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.cause} {self.next_step}"


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """What the evidence proves, or None. For runs that did not end with exit code 0."""
    if evidence.exit_code == 0:
        return None
    return next((found for rule in RULES if (found := rule(evidence))), None)


def shown(text: str) -> str:
    """A name that the guest or a client chose, fit for a sentence."""
    kept = "".join(c if c.isprintable() else "?" for c in text[:MAX_NAME])
    return kept if len(text) <= MAX_NAME else f"{kept}..."


def _mib(size: int) -> str:
    return f"{size / _MIB:,.1f}" if size < 10 * _MIB else f"{size // _MIB:,}"


def _out_of_memory(evidence: Evidence) -> Diagnosis | None:
    record = evidence.record
    if record.oom_kills < 1:
        return None
    limit = f", of which programs share {_mib(record.memory_limit)}" if record.memory_limit else ""
    most = f" This run used up to {_mib(record.memory_peak)} MiB." if record.memory_peak else ""
    advice = "Use less memory: read data in pieces, run fewer processes at once."
    if record.memory_shared > _MANY_SHARED * max(record.memory_limit, 1):
        advice = (
            f"Delete files in {_SHM} and other memory file systems, which hold "
            f"{_mib(record.memory_shared)} MiB, or use less memory otherwise."
        )
    return Diagnosis(
        "out_of_memory",
        f"Out of memory at {evidence.memory_mib} MiB{limit}: the guest's kernel killed the run."
        f"{most}",
        f"{advice} The operator can give new environments more, such as "
        f"WAGGLE_DEFAULT_MEMORY_MB={2 * evidence.memory_mib}.",
    )


def _cannot_execute(evidence: Evidence) -> Diagnosis | None:
    record, program = evidence.record, shown(evidence.program)
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
        case errno.ENOENT:
            return Diagnosis(
                "command_not_found",
                f"There is no program {program} in this environment.",
                "Check the name and PATH, install the program (run_command as root with the "
                "distribution's package manager), or choose an image that has it.",
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
                f"{file} could not be started: {os.strerror(number)}.",
                "Mend that.",
            )


def _is_full(evidence: Evidence) -> bool:
    disk, inodes = evidence.record.disk, evidence.record.inodes
    return (disk is not None and disk.free < _FULL_BYTES) or (
        inodes is not None and inodes.total > 0 and inodes.free < _FULL_INODES
    )


def _killed(evidence: Evidence) -> Diagnosis | None:
    number, name = evidence.record.signal, evidence.signal
    if name is None and number is not None and evidence.exit_code is not None:
        name = signals.name_of(number)
    if name is None or (name == "SIGBUS" and _is_full(evidence)):
        return None
    told = signals.told(name)
    return Diagnosis(
        "killed_by_signal", f"Signal {shown(name)} ended it: {told.cause}.", told.next_step
    )


def _too_many_processes(evidence: Evidence) -> Diagnosis | None:
    record = evidence.record
    if record.forks_refused < 1:
        return None
    return Diagnosis(
        "too_many_processes",
        f"While it ran, the environment was at its limit of {record.process_limit} processes and "
        f"threads; {record.forks_refused} more were refused.",
        "Start fewer at once and wait for their end; kill_job ends jobs that are still running.",
    )


def _disk_full(evidence: Evidence) -> Diagnosis | None:
    disk, inodes = evidence.record.disk, evidence.record.inodes
    if not _is_full(evidence):
        return None
    if disk is not None and disk.free < _FULL_BYTES:
        what = f"The disk is full: {_room(disk)}"
    else:
        most = inodes.total if inodes else 0
        what = f"The disk has no room for another file: all {most:,} are taken"
    return Diagnosis(
        "disk_full",
        f"{what}. Writing fails.",
        "Delete what is not needed (du -x -d 3 -m / | sort -n shows what is large). The operator "
        f"can give new environments more, such as WAGGLE_SCRATCH_MB={2 * evidence.disk_mib}.",
    )


def _room(space: Space) -> str:
    return f"{_mib(space.free)} of {_mib(space.total)} MiB are free"


def _memory_files_full(evidence: Evidence) -> Diagnosis | None:
    shm = evidence.record.shm
    if shm is None or shm.total == 0 or shm.free >= _FULL_BYTES:
        return None
    return Diagnosis(
        "disk_full",
        f"{_SHM} is full: {_room(shm)}. Writing there fails.",
        "Delete what is not needed there, or write to the disk: /tmp and the home directory.",
    )


def _missing_module(evidence: Evidence) -> Diagnosis | None:
    module = evidence.missing
    if module is None:
        return None
    kind = "Python" if module.language is RuntimeName.PYTHON else "Node.js"
    get = "Install the package that provides it with install_packages"
    if evidence.network is NetworkPolicy.NONE:
        get = "This environment has no network: create one with network 'public' and install it"
    return Diagnosis(
        "module_not_found",
        f"The {kind} module {shown(module.name)} is not installed in this environment.",
        f"{get} (a package may have another name than its module), or write the module's file.",
    )


def _network_refused(evidence: Evidence) -> Diagnosis | None:
    if not evidence.refused:
        return None
    unique = list(dict.fromkeys(evidence.refused))
    listed = ", ".join(_destination(each) for each in unique[:_SHOWN_REFUSALS])
    more = f" and {len(unique) - _SHOWN_REFUSALS} more" if len(unique) > _SHOWN_REFUSALS else ""
    settings = sorted({_setting(each) for each in unique})
    return Diagnosis(
        "network_refused",
        f"While it ran, the network policy refused connections to {listed}{more}.",
        "Use a public server on a permitted port. The operator can permit others with "
        f"{' and '.join(settings)}.",
    )


def _destination(refused: Refused) -> str:
    return f"{shown(refused.host)} port {refused.port} ({refused.reason})"


def _setting(refused: Refused) -> str:
    return "WAGGLE_EGRESS_PORTS" if refused.code == "port" else "WAGGLE_EGRESS_ALLOW_CIDRS"


def _network_bypassed(evidence: Evidence) -> Diagnosis | None:
    record = evidence.record
    if evidence.exit_code is None or not (record.unrouted or record.unheard):
        return None
    if evidence.network is NetworkPolicy.NONE:
        advice = "This environment has no network: create one with network 'public'."
    else:
        advice = (
            "Use HTTP or HTTPS through the proxy that http_proxy and https_proxy name; it also "
            "looks up names. Other protocols (SSH, databases, ping, DNS) do not get out."
        )
    return Diagnosis(
        "no_direct_network",
        "While it ran, something in the environment tried to reach the network or a name server "
        f"directly, {record.unrouted + record.unheard} times; there is no such way.",
        advice,
    )


def _code_of_shell(evidence: Evidence) -> Diagnosis | None:
    code = evidence.exit_code
    if code == 127:
        return Diagnosis(
            "command_not_found",
            "Exit code 127 is how a shell says that a command was not found; a program may also "
            "have chosen it.",
            "Check on stderr which one, install it, or choose an image that has it.",
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


Rule = Callable[[Evidence], Diagnosis | None]
RULES: tuple[Rule, ...] = (
    _out_of_memory,
    _cannot_execute,
    _killed,
    _too_many_processes,
    _disk_full,
    _memory_files_full,
    _missing_module,
    _network_refused,
    _network_bypassed,
    _code_of_shell,
)


def machine_died(cause: str) -> Diagnosis:
    """Why a guest was lost whose machine died; `cause` is what `Machine.wait` returned."""
    if "Kernel panic" in cause:
        step = "Something in it made its kernel give up: run less at once, or not as root."
    elif cause.endswith("was killed by SIGKILL"):
        step = (
            "Somebody on the server killed it, often the kernel for lack of memory: the operator "
            "finds that in the server's kernel log (dmesg)."
        )
    elif cause == "the guest shut down":
        step = "Something in it shut the machine down: leave out reboot, shutdown and the like."
    else:
        step = "The operator finds more in the server's log."
    return Diagnosis(
        "guest_lost",
        f"The machine died: {cause}.",
        f"Its files are gone: create a new environment. {step}",
    )
