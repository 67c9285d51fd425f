# SPDX-License-Identifier: Apache-2.0
"""The person at this terminal, who answers what the server asks while a command runs.

`waggle exec` and `waggle run` give it to their client. Reads and writes the terminal itself, since
standard input may be the program's. Without one, in the foreground, nobody is asked, and the
server's refusal says what would allow the connection.
"""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Generator, Sequence
from typing import Any, cast

import anyio
from mcp.client.session import ClientRequestContext, ElicitationFnT
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from waggle.cli.progress import say

TERMINAL = "/dev/tty"
_FIELD = "answer"
_LINE = 256


class Person:
    """Asks one question after the other on the terminal of `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._one = anyio.Lock()

    async def __call__(
        self,
        context: ClientRequestContext,
        params: ElicitRequestParams,
    ) -> ElicitResult:
        """Show a form of one choice and return the answer; anything unexpected is a no."""
        choices = _choices(params)
        if not choices or not is_in_foreground(self._descriptor):
            return ElicitResult(action="cancel")
        async with self._one:
            termios.tcflush(self._descriptor, termios.TCIFLUSH)  # typed before the question
            say(f"waggle: {_printable(params.message)}")
            say(f"  {', '.join(choices)}? [no]")
            await anyio.wait_readable(self._descriptor)
            line = os.read(self._descriptor, _LINE).decode("utf-8", "replace")
        if (answer := chosen(line, choices)) is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={_FIELD: answer})


def chosen(line: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a line means: its word, the beginning of one, or `yes` for once."""
    word = line.strip().lower()
    word = "once" if word in ("y", "yes") else word
    return next((choice for choice in choices if word and choice.startswith(word)), None)


def _choices(params: ElicitRequestParams) -> list[str]:
    if not isinstance(params, ElicitRequestFormParams):
        return []
    schema: dict[str, Any] = params.requested_schema
    about: object = schema.get("properties", {}).get(_FIELD, {}).get("enum", [])
    choices = cast("list[object]", about) if isinstance(about, list) else []
    return [_printable(str(one)) for one in choices]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def is_in_foreground(descriptor: int) -> bool:
    """Whether this process may read the terminal: another would be stopped."""
    with contextlib.suppress(OSError):
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False


@contextlib.contextmanager
def person() -> Generator[ElicitationFnT | None]:
    """Open the terminal for the length of the block; without one there is nobody to ask."""
    descriptor = None
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            descriptor = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if descriptor is None or not is_in_foreground(descriptor):
        yield None
        return
    try:
        yield Person(descriptor)
    finally:
        os.close(descriptor)
