# SPDX-License-Identifier: Apache-2.0
"""Live status of long work on stderr: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

SLOW_SECONDS = 3.0
_TITLE = 44
"""Characters of a title beside a bar, so that details fit in, too."""
console = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """One line on stderr."""
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def working(title: str) -> Generator[Callable[[str], None]]:
    """Show `title` while the block runs, then how long it took; call the result with details."""
    started = time.monotonic()
    if sys.stderr.isatty():
        with console.status(title) as status:
            yield lambda line: status.update(f"{title}  [dim]{_short(line)}[/]")
    else:
        say(f"{title} ...")
        yield lambda _line: None
    say(f"{title}: done in {time.monotonic() - started:.1f} s")


@contextmanager
def waiting(title: str) -> Generator[Callable[[str], None]]:
    """As `working`, but nothing stays of it: for a step beside a program's own output.

    Where there is no terminal, only what takes longer than SLOW_SECONDS is told, in one line.
    """
    if sys.stderr.isatty():
        with console.status(title) as status:
            yield lambda line: status.update(f"{title}  [dim]{_short(line)}[/]")
        return
    told = threading.Timer(SLOW_SECONDS, say, (f"{title} ...",))
    told.daemon = True
    told.start()
    try:
        yield lambda _line: None
    finally:
        told.cancel()


@contextmanager
def filling(title: str) -> Generator[Callable[[float, str], None]]:
    """Show a bar while the block runs; call the result with the fraction done and details.

    It may be called from any thread.
    """
    started = time.monotonic()
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}", markup=False), BarColumn(16))
        with Progress(
            *columns, TextColumn("{task.fields[text]}", markup=False), console=console
        ) as bar:
            task = bar.add_task(_short(title)[:_TITLE], total=1.0, text="")
            yield lambda share, text: bar.update(task, completed=share, text=_short(text))
    else:
        say(f"{title} ...")
        yield lambda _share, _text: None
    say(f"{title}: done in {time.monotonic() - started:.1f} s")


def _short(line: str) -> str:
    return "".join(c if c.isprintable() and c not in "[]" else " " for c in line)[:70]
