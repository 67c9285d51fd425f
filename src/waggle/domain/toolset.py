# SPDX-License-Identifier: Apache-2.0
"""Named sets of tools, the offer of them to a client, and texts that name only offered tools. Pure.

An operator may allow some sets only, and a client may choose among those.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from waggle.domain.errors import InvalidArgument


class Toolset(StrEnum):
    """Tools that belong together; `core` has the few everyday tools of several other sets."""

    CORE = "core"
    ENVIRONMENTS = "environments"
    EXECUTION = "execution"
    JOBS = "jobs"
    FILES = "files"
    PACKAGES = "packages"
    PORTS = "ports"
    SNAPSHOTS = "snapshots"
    RUN = "run"


ALL_TOOLSETS = frozenset(Toolset)
EVERYTHING = ("full", "all")
"""Words for all sets together."""
CHOSEN = "waggle.offer"
"""The key of a request's scope under which `waggle.web` stores the offer that a client chose."""
TOOLS: Mapping[Toolset, tuple[str, ...]] = {
    Toolset.CORE: (
        "execute",
        "write_file",
        "read_file",
        "edit_file",
        "list_files",
        "install_packages",
        "read_job",
        "create_environment",
        "list_environments",
        "destroy_environment",
    ),
    Toolset.ENVIRONMENTS: (
        "create_environment",
        "list_environments",
        "destroy_environment",
        "get_environment",
        "extend_environment",
        "set_network",
        "restart_environment",
    ),
    Toolset.EXECUTION: ("execute", "run_command"),
    Toolset.JOBS: ("read_job", "wait_job", "write_job", "kill_job", "list_jobs"),
    Toolset.FILES: (
        "write_file",
        "read_file",
        "edit_file",
        "list_files",
        "search_files",
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
        "keep_fork",
        "rollback_environment",
    ),
    Toolset.RUN: ("run_code",),
}
"""The names of tools; texts may name a tool by these only."""
ALL_TOOLS = tuple(dict.fromkeys(name for names in TOOLS.values() for name in names))
"""In the order in which clients list them: the core first."""
_SENTENCE = re.compile(r"(?<=\.)\s+")
_CLAUSE = re.compile(r"(?<=;)\s+")


def toolsets_of(words: Iterable[str]) -> frozenset[Toolset]:
    """Return the sets that these words name, also `full` and `all`. Raises InvalidArgument."""
    names = [word.lower() for word in words if word]
    unknown = [name for name in names if name not in (*Toolset, *EVERYTHING)]
    if unknown or not names:
        wrong = f"There is no toolset {unknown[0][:40]!r}." if unknown else "No toolset is named."
        raise InvalidArgument(wrong, hint=f"Use some of: {', '.join([*Toolset, 'full'])}.")
    if any(name in EVERYTHING for name in names):
        return ALL_TOOLSETS
    return frozenset(Toolset(name) for name in names)


@dataclass(frozen=True)
class Offer:
    """The tools that clients are shown and that texts may name: some of the `allowed` sets.

    `chosen` means that the client asked for exactly these; then it can call no others.
    """

    toolsets: frozenset[Toolset] = ALL_TOOLSETS
    allowed: frozenset[Toolset] = ALL_TOOLSETS
    chosen: bool = False

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools, in the order in which clients list them."""
        shown = {name for toolset in self.toolsets for name in TOOLS[toolset]}
        allowed = {name for toolset in self.allowed for name in TOOLS[toolset]}
        return tuple(name for name in ALL_TOOLS if name in shown and name in allowed)

    def has(self, tool: str) -> bool:
        """Whether a tool of this name is offered."""
        return tool in self.tools

    @property
    def whole(self) -> Offer:
        """The offer of everything that is allowed."""
        return Offer(self.allowed, self.allowed)

    def choose(self, words: Iterable[str]) -> Offer:
        """Return the offer for a client that asks for sets by these words.

        Raises InvalidArgument for words that name no set, or none that is allowed.
        """
        choice = Offer(toolsets_of(words), self.allowed, chosen=True)
        if not choice.tools:
            raise InvalidArgument(
                f"This server does not offer the toolset {min(choice.toolsets)}.",
                hint=f"It offers: {', '.join(name for name in Toolset if name in self.allowed)}.",
            )
        return choice

    def advice(self, text: str) -> str:
        """Return waggle's own advice without clauses that name a withheld tool; may be empty.

        A semicolon or the end of a sentence ends a clause. Not for texts of guests or clients.
        """
        return text if self._withheld is None else without(self._withheld, text)

    @cached_property
    def _withheld(self) -> re.Pattern[str] | None:
        """A pattern for the names of tools that are not offered; None if all are."""
        names = [name for name in ALL_TOOLS if not self.has(name)]
        return naming(names) if names else None


def naming(words: Collection[str]) -> re.Pattern[str]:
    """Return a pattern for one of these names, as a word."""
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


def without(withheld: re.Pattern[str], text: str) -> str:
    """Return advice without the clauses that contain a withheld name; see `Offer.advice`."""
    if not withheld.search(text):
        return text
    sentences = (_without(withheld, sentence) for sentence in _SENTENCE.split(text))
    return " ".join(filter(None, sentences))


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
