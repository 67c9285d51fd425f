# SPDX-License-Identifier: Apache-2.0
"""Live status of long work on stderr: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False)


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


def _short(line: str) -> str:
    return "".join(c if c.isprintable() and c not in "[]" else " " for c in line)[:70]
