# SPDX-License-Identifier: Apache-2.0
"""The lab's progress output, with the seconds since its start.

On a terminal the last line shows the newest detail; elsewhere a detail of every piece of work is
printed at intervals, so that a log shows progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from lab.events import Beat, Ended, Event, Line, Over, Started, Up

QUIET_SECONDS = 15.0
_WIDTH = 150
_STATUS_WIDTH = 100


class Display:
    """Writes progress to `out`. Not thread-safe."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._began = clock()
        self._shown: dict[str, float] = {}
        self._status = False
        self._last_line = ""

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self._wipe()
        self._out.write(f"lab {self._clock() - self._began:4.0f} s | {_clean(text)[:_WIDTH]}\n")
        self._out.flush()

    def detail(self, work: str, line: str) -> None:
        """Show what a piece of work is doing now."""
        if not line.strip():
            return
        text = f"{work}: {_clean(line).strip()}"
        if self._out.isatty():
            self._wipe()
            seconds = self._clock() - self._began
            self._out.write(f"lab {seconds:4.0f} s | {text[:_STATUS_WIDTH]}")
            self._out.flush()
            self._status = True
        elif self._clock() - self._shown.get(work, self._began) >= QUIET_SECONDS:
            self._shown[work] = self._clock()
            self.say(text)

    def event(self, machine: str, event: Event) -> None:
        """Show an event of an outer machine."""
        match event:
            case Up(seconds=seconds):
                self.say(f"{machine} is up, {seconds:.0f} s after its kernel started")
            case Started(job=job, seconds=seconds):
                self.say(f"{job} begins and has {seconds:.0f} s")
            case Line(text=text):
                if text.strip() and text != self._last_line:
                    self.say(text)
                self._last_line = text
            case Ended(job=job, code=code, seconds=seconds):
                self.say(f"{job} ended with exit code {code} after {seconds:.0f} s")
            case Beat():
                pass
            case Over():
                self.say(f"{machine}: all jobs are over")

    def _wipe(self) -> None:
        if self._status:
            self._out.write("\r\033[K")
            self._status = False


def _clean(text: str) -> str:
    """Replace characters that would control a terminal. Pure."""
    return "".join(c if c.isprintable() else " " for c in text)
