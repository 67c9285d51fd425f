# SPDX-License-Identifier: Apache-2.0
"""How a program runs, as its caller asks for it; made into the command and attributes of a job.

Made by `waggle.mcp`, used by `ExecutionService`. Knows nothing of runtimes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from waggle.domain.files import parse_path
from waggle.domain.programs import Command, GuestUser, parse_seconds
from waggle.domain.programs.guest_job import TERMINAL_VARIABLES, Attributes, Terminal
from waggle.domain.programs.runtime import Given, encoded, parse_variables


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How a program runs: seconds until it is killed, its directory, variables and stdin.

    With `stdin_open`, its standard input stays open for more.
    With `tty` it has a terminal, which clients attach to; stdin is typed there.
    """

    timeout_seconds: float | None = None
    cwd: str | None = None
    env: Given = field(default_factory=dict[str, object])
    stdin: str = ""
    stdin_open: bool = False
    tty: bool = False

    def command(self, argv: tuple[str, ...], user: GuestUser, longest: float) -> Command:
        """Return the command, which is killed after `longest` seconds at the latest.

        Raises InvalidArgument or TooLarge.
        """
        variables = parse_variables(self.env)
        return Command(
            argv=argv,
            timeout=parse_seconds(self.timeout_seconds, longest, longest),
            cwd=None if self.cwd is None else parse_path(self.cwd),
            env={**TERMINAL_VARIABLES, **variables} if self.tty else variables,
            stdin=encoded(self.stdin, "stdin"),
            user=user,
        )

    def attributes(self, *, has_displays: bool = False) -> Attributes:
        """Return the attributes of its job; a terminal is all the output that a program has."""
        return Attributes(
            terminal=Terminal() if self.tty else None,
            has_displays=has_displays and not self.tty,
            keeps_input=self.stdin_open,
        )


PLAIN = Surroundings()
