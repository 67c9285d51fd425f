# SPDX-License-Identifier: Apache-2.0
"""Programs that calls have left running in an environment. The guest tells of them."""

from __future__ import annotations

from dataclasses import dataclass

MAX_COMMAND = 200
"""Characters of a program's command."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program that goes on: the root of its process tree, and the run that left it.

    `command` is its words or, where it has none, its name; control characters are replaced.
    """

    pid: int
    command: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Left:
    """Some of them, and how many there are."""

    programs: tuple[Program, ...] = ()
    count: int = 0

    def without(self, runs: frozenset[str]) -> Left:
        """Only those that other runs have left. Pure."""
        kept = tuple(each for each in self.programs if each.run_id not in runs)
        return Left(kept, self.count - len(self.programs) + len(kept))

    def of(self, run_id: str) -> tuple[Program, ...]:
        """Those that one run has left."""
        return tuple(each for each in self.programs if each.run_id == run_id)


NOTHING_LEFT = Left()
