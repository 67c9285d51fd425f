# SPDX-License-Identifier: Apache-2.0
"""This process's own terminal: raw mode, its size, what is typed, and the escape that detaches.

Used by `terminal`. Knows nothing of servers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Generator

import anyio
import anyio.to_thread

PIECE = 16 << 10
ESCAPE = "Enter ~ ."
"""The keys that detach, as people know them from ssh."""
_TILDE, _DOT = ord("~"), ord(".")
_LINE_ENDS = b"\r\n"


class Escape:
    """Finds the escape in what is typed: a tilde and a dot at the beginning of a line.

    A tilde there is held back until the next key; two of them are one.
    """

    def __init__(self) -> None:
        self._at_start = True
        self._held = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what to pass on, and whether to detach. Nothing after the escape is passed on."""
        passed = bytearray()
        for key in data:
            if self._held:
                self._held = False
                if key == _DOT:
                    return bytes(passed), True
                if key != _TILDE:
                    passed.append(_TILDE)
            elif key == _TILDE and self._at_start:
                self._held = True
                continue
            passed.append(key)
            self._at_start = key in _LINE_ENDS
        return bytes(passed), False


def descriptor() -> int | None:
    """Return the descriptor of standard input, if there is one."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return sys.stdin.fileno()
    return None


def is_terminal(number: int | None) -> bool:
    """Whether a descriptor is a terminal."""
    return number is not None and os.isatty(number)


@contextlib.contextmanager
def raw(number: int | None) -> Generator[None]:
    """Pass every key on as it is while the block runs, if the descriptor is a terminal."""
    if number is None or not os.isatty(number):
        yield
        return
    before = termios.tcgetattr(number)
    tty.setraw(number, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def size() -> tuple[int, int] | None:
    """Return the rows and columns of this process's terminal, if it has one."""
    for number in (1, 0, 2):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(number)
            if found.lines > 0 and found.columns > 0:
                return min(found.lines, 1_000), min(found.columns, 1_000)
    return None


async def typed(number: int) -> AsyncGenerator[bytes]:
    """Yield what is typed, to its end."""
    while True:
        with contextlib.suppress(PermissionError):  # a file can always be read
            await anyio.wait_readable(number)
        try:
            data = os.read(number, PIECE)
        except OSError:
            return  # the terminal is gone
        if not data:
            return
        yield data


async def show(data: bytes) -> None:
    """Write to standard output, which may wait for its reader."""
    await anyio.to_thread.run_sync(_write, data, abandon_on_cancel=True)


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def notice(text: str) -> None:
    """Print a line on stderr, in raw mode as well."""
    sys.stderr.write(f"\r\nwaggle: {text}\r\n" if is_terminal(2) else f"waggle: {text}\n")
    sys.stderr.flush()
