# SPDX-License-Identifier: Apache-2.0
"""Find out why a run failed and what to do next, from evidence. Pure.

Used by `waggle.service.local.diagnostician`. RULES is the table; the first rule that yields a
diagnosis wins. Facts of the machine come first, messages of well-known programs (`said`) after
them. A failure without any evidence has no diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable

from waggle.domain.diagnosis import lacking, mistakes, programs, reach, said
from waggle.domain.diagnosis.evidence import Diagnosis, Evidence

__all__ = ["RULES", "Diagnosis", "diagnose", "machine_died"]

Rule = Callable[[Evidence], Diagnosis | None]
RULES: tuple[Rule, ...] = (
    programs.out_of_memory,
    mistakes.code_of_python,
    lacking.command_not_found,
    programs.cannot_execute,
    programs.line_ends,
    programs.cannot_enter,
    programs.killed,
    programs.too_many_processes,
    programs.disk_full,
    programs.memory_files_full,
    reach.missing_module,
    reach.missing_part,
    reach.build_failed,
    reach.network_refused,
    said.what_was_said,
    mistakes.in_the_code,
    reach.network_bypassed,
    programs.code_of_shell,
)


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """Return the diagnosis, or None. For exit code 0, only a missing command is one."""
    if evidence.exit_code == 0:
        return lacking.command_not_found(evidence)
    return next((found for rule in RULES if (found := rule(evidence))), None)


def machine_died(cause: str) -> Diagnosis:
    """Return the diagnosis of a machine that died; `cause` is the result of `Machine.wait`."""
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
