# SPDX-License-Identifier: Apache-2.0
"""`waggle exec`: run a program in an environment of the running server, like `docker exec`."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

import anyio
from mcp import Client

from waggle.cli.asking import person
from waggle.cli.client import connected_by, find
from waggle.cli.env import program
from waggle.cli.env.program import Ended
from waggle.cli.progress import interruptible, say
from waggle.config import load
from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.programs import MAX_STDIN_BYTES

_PIECE = 1 << 20
_MOST_SENT = 30 << 20
"""Below the server's limit of 31 MiB for one request."""
_PIPE = "Standard input is a pipe; -i passes it on."
_AS_A_FILE = "Copy it as a file with 'waggle cp', and have the program read that."


@dataclass(frozen=True, slots=True)
class How:
    """The options of a run. `user` is sandbox or root; `stdin` is whether a pipe is passed on."""

    user: str = "sandbox"
    cwd: str | None = None
    variables: Sequence[str] = field(default=())
    timeout_seconds: float | None = None
    stdin: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the tool run_command. Raises InvalidArgument."""
        given: dict[str, Any] = {"user": self.user, "env": parse_variables(self.variables)}
        if self.cwd is not None:
            given["cwd"] = self.cwd
        if self.timeout_seconds is not None:
            given["timeout_seconds"] = self.timeout_seconds
        return given


def execute(environment: str, command: Sequence[str], how: How) -> int:
    """Run a program and return its exit code.

    Raises InvalidArgument, TooLarge, NotFound and the server's refusals, and KeyboardInterrupt at a
    signal, after the program was killed.
    """
    arguments = arguments_of(environment, command, how)
    arguments["stdin"] = standard_input(pipe=how.stdin)
    return report(anyio.run(_connect_and_run, environment, arguments), command)


def arguments_of(environment: str, command: Sequence[str], how: How) -> dict[str, Any]:
    """Return the arguments of the tool run_command. Raises InvalidArgument without a program."""
    if not command:
        raise InvalidArgument(
            f"A program is needed, after the environment {environment!r}.",
            hint="As in: waggle exec ENVIRONMENT -- ls -l",
        )
    return {**how.arguments(), "command": list(command)}


async def _connect_and_run(environment: str, arguments: dict[str, Any]) -> Ended:
    with person() as somebody:
        async with connected_by(load(), somebody) as client:
            environment_id = (await find(client, environment))["environment_id"]
            work = partial(attached, client, {**arguments, "environment_id": environment_id})
            return await interruptible(work)


async def attached(client: Client, arguments: dict[str, Any]) -> Ended:
    """Run a program with the output streams of this process."""
    return await program.run(client, arguments, sys.stdout.buffer, sys.stderr.buffer)


def report(ended: Ended, command: Sequence[str] = ()) -> int:
    """Report on stderr what the program's output does not show, and return the exit code.

    Lost output turns success into a failure.
    """
    if ended.message:
        say(f"waggle: {ended.message}")
    if ended.code and len(command) == 1 and " " in command[0].strip():
        quoted = command[0].replace("'", "'\\''")
        say(
            "  One word is one program. For a line of the shell: "
            f"waggle exec ENVIRONMENT -- sh -c '{quoted}'"
        )
    if not ended.lost:
        return ended.code
    say(
        f"waggle: {ended.lost} bytes of output are lost: it came faster than it was read, and the "
        "server keeps only WAGGLE_OUTPUT_KEEP_MB of a stream.\n"
        "  Have the program write into a file, and fetch it with 'waggle cp'."
    )
    return ended.code or 1


def parse_variables(words: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` words as variables; a later word wins. Raises InvalidArgument."""
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise InvalidArgument(
                f"{name or '='!r} is no variable.", hint="Write --env NAME=VALUE."
            )
    return {name: value for name, _, value in pairs}


def standard_input(*, pipe: bool) -> str:
    """Return the program's standard input: a file, or a pipe with `pipe`; of a terminal, nothing.

    Processes often start a program with a pipe or socket on which nothing is ever written, so a
    pipe or socket is read only with `pipe`, and then to its end. Raises TooLarge, and
    InvalidArgument for data that is not text.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    if not pipe and _is_pipe(sys.stdin.fileno()):
        if select.select([sys.stdin.fileno()], [], [], 0)[0]:
            say(_PIPE)
        return ""
    return _text(read_input(MAX_STDIN_BYTES))


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def read_input(limit: int) -> bytes:
    """Read standard input to its end.

    Raises InvalidArgument if there is none, and TooLarge for more than `limit` bytes.
    """
    source: IO[str] | None = sys.stdin
    if source is None:
        raise InvalidArgument("There is no standard input.", hint="Name a file.")
    data = bytearray()
    while piece := os.read(source.fileno(), _PIECE):
        data += piece
        if len(data) > limit:
            raise TooLarge(f"Standard input is over {limit} bytes.", hint=_AS_A_FILE)
    return bytes(data)


def _text(data: bytes) -> str:
    """Return the data as text that fits into a request: JSON of a control character is six bytes.

    Raises InvalidArgument and TooLarge.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument("Standard input is not UTF-8 text.", hint=_AS_A_FILE) from error
    if len(json.dumps(text, ensure_ascii=False).encode()) > _MOST_SENT:
        raise TooLarge("Standard input has too many control characters.", hint=_AS_A_FILE)
    return text
