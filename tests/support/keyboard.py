# SPDX-License-Identifier: Apache-2.0
"""A `waggle` command on a pseudo-terminal, with a person who types and looks."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from tests.support.waggle_process import environ

_TAKING = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("waggle", run_name="__main__", alter_sys=True)
"""


@dataclass(slots=True)
class Keyboard:
    """A command on a terminal. `shown` is all that it has shown, `seen` of it was looked at."""

    process: subprocess.Popen[bytes]
    descriptor: int
    shown: bytearray = field(default_factory=bytearray)
    seen: int = 0

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    async def shows(self, text: str, seconds: float = 30) -> None:
        """Look until the text is shown, after that which was looked for before."""
        at = -1
        with anyio.move_on_after(seconds) as late:
            while (at := self.shown.find(text.encode(), self.seen)) < 0:
                await self._look()
        assert not late.cancelled_caught, f"{text!r} is not in {bytes(self.shown[self.seen :])!r}"
        self.seen = at + len(text.encode())

    async def _look(self) -> None:
        await anyio.wait_readable(self.descriptor)
        self.shown += os.read(self.descriptor, 1 << 16)  # OSError: the command has ended

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    async def ended(self, seconds: float = 30) -> int:
        """Look until the command ends, and return its exit code."""
        with anyio.fail_after(seconds), contextlib.suppress(OSError):
            while True:
                await self._look()
        return await asyncio.to_thread(self.process.wait, seconds)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.descriptor)[3] & termios.ICANON


@asynccontextmanager
async def keyboard(
    *words: str,
    data: Path,
    settings: Mapping[str, str],
    rows: int = 30,
    columns: int = 100,
    is_its_own: bool = False,
) -> AsyncGenerator[Keyboard]:
    """Run a command on a terminal of that size; it is killed at the end.

    With `is_its_own` the terminal is that of its session, /dev/tty.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *(("-c", _TAKING) if is_its_own else ("-m", "waggle")), *words],
        env=environ(data, settings),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Keyboard(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
