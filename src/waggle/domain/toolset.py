# SPDX-License-Identifier: Apache-2.0
"""The tools in named sets, of which an operator may offer some only, and texts that heed that."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Toolset(StrEnum):
    """Tools that belong together. `waggle.mcp.tools` makes them."""

    ENVIRONMENTS = "environments"
    EXECUTION = "execution"
    JOBS = "jobs"
    FILES = "files"
    PACKAGES = "packages"
    PORTS = "ports"
    SNAPSHOTS = "snapshots"
    RUN = "run"


ALL_TOOLSETS = frozenset(Toolset)
TOOLS: Mapping[Toolset, tuple[str, ...]] = {
    Toolset.ENVIRONMENTS: (
        "create_environment",
        "list_environments",
        "destroy_environment",
        "get_environment",
        "extend_environment",
    ),
    Toolset.EXECUTION: ("execute", "run_command"),
    Toolset.JOBS: ("wait_job", "read_job", "kill_job", "list_jobs"),
    Toolset.FILES: (
        "write_file",
        "read_file",
        "list_files",
        "search_files",
        "edit_file",
        "upload_files",
        "download_files",
    ),
    Toolset.PACKAGES: ("install_packages",),
    Toolset.PORTS: ("expose_port", "unexpose_port"),
    Toolset.SNAPSHOTS: (
        "pause_environment",
        "resume_environment",
        "snapshot_environment",
        "list_snapshots",
        "delete_snapshot",
        "fork_environment",
        "rollback_environment",
    ),
    Toolset.RUN: ("run_code",),
}
"""The names, in the order in which a client lists them; texts may name a tool by these only."""
_SENTENCE = re.compile(r"(?<=\.)\s+")
_CLAUSE = re.compile(r"(?<=;)\s+")


@dataclass(frozen=True)
class Offer:
    """What clients can call, and what may be said to them."""

    toolsets: frozenset[Toolset] = ALL_TOOLSETS

    def has(self, tool: str) -> bool:
        """Whether a tool of this name can be called."""
        return any(tool in TOOLS[each] for each in self.toolsets)

    def any_of(self, toolsets: Collection[Toolset]) -> bool:
        """Whether one of these sets is offered."""
        return not self.toolsets.isdisjoint(toolsets)

    def advice(self, text: str) -> str:
        """Our own advice without the clauses that name a tool which is not offered; maybe empty.

        A semicolon or the end of a sentence ends a clause. Not for what guests or clients wrote.
        """
        return text if self._withheld is None else without(self._withheld, text)

    @cached_property
    def _withheld(self) -> re.Pattern[str] | None:
        """A word that is the name of a tool which is not offered; None if all are."""
        names = [name for each in Toolset if each not in self.toolsets for name in TOOLS[each]]
        return naming(names) if names else None


def naming(words: Collection[str]) -> re.Pattern[str]:
    """One of these names, as a word."""
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


def without(withheld: re.Pattern[str], text: str) -> str:
    """Advice without the clauses in which there is such a name; as `Offer.advice`."""
    if not withheld.search(text):
        return text
    told = (_without(withheld, sentence) for sentence in _SENTENCE.split(text))
    return " ".join(sentence for sentence in told if sentence)


def _without(withheld: re.Pattern[str], sentence: str) -> str:
    clauses = _CLAUSE.split(sentence)
    kept = [clause for clause in clauses if not withheld.search(clause)]
    if not kept or kept == clauses:
        return " ".join(kept)
    first, rest = kept[0], kept[1:]
    if first is not clauses[0] and "_" not in first.partition(" ")[0]:
        first = first[:1].upper() + first[1:]
    text = " ".join([first, *rest])
    return f"{text[:-1]}." if text.endswith(";") else text
