# SPDX-License-Identifier: Apache-2.0
"""The output of commands: results on stdout, progress on stderr; and the end of work at a signal.

Progress is a spinner or a bar on a terminal, plain lines elsewhere. `interruptible` and `answered`
cancel work with its clean-up, for the commands that use the server.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TypeVar

import anyio
import anyio.lowlevel
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from waggle.tasks import together

SLOW_SECONDS = 3.0
_TITLE = 44
"""Maximum characters of a title beside a bar, so that details fit."""
console = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print one line on stderr."""
    console.print(text, markup=False, soft_wrap=True)


def print_json(result: object) -> None:
    """Print a result on stdout, for scripts."""
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def print_table(
    names: Sequence[str], rows: Iterable[Sequence[str]], nothing: str, width: int = 0
) -> None:
    """Print a table on stdout, or `nothing` if it has no rows.

    It may take `width` characters, also on a narrower terminal, and does not wrap the first column:
    a truncated id is useless.
    """
    table = Table(Column(names[0], no_wrap=True), *names[1:], box=None)
    for row in rows:
        table.add_row(*row)
    out = Console(markup=False, emoji=False, highlight=False)
    out.width = max(out.width, width)
    out.print(table if table.row_count else nothing)


@contextmanager
def working(title: str) -> Generator[Callable[[str], None]]:
    """Show `title` while the block runs, then the time it took; call the result with details."""
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
    """Show `title` as `working` does, but leave no trace: for a step beside a program's output.

    Without a terminal, print one line, and only after SLOW_SECONDS.
    """
    if sys.stderr.isatty():
        with console.status(title) as status:
            yield lambda line: status.update(f"{title}  [dim]{_short(line)}[/]")
        return
    timer = threading.Timer(SLOW_SECONDS, say, (f"{title} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield lambda _line: None
    finally:
        timer.cancel()


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


T = TypeVar("T")
ANSWER_SECONDS = 15.0
_LOOK = "It may still have carried out the call: see 'waggle env ls'."
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def interruptible(
    work: Callable[[], Awaitable[T]], on_signal: Callable[[], None] = lambda: None
) -> T:
    """Do the work; at a signal, cancel it, let it clean up, and only then raise KeyboardInterrupt.

    `on_signal` is called at the first signal; further ones have no effect, since clean-up has its
    own bounds. A signal that this process was started to ignore, as by nohup, stays ignored. The
    whole work is cancelled: open a connection with its own tasks around this call, not in the work.
    """
    interrupted = anyio.Event()
    done: list[T] = []
    received = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    async def watch(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(*received) as signals:
            async for _ in signals:
                if not interrupted.is_set():
                    on_signal()
                interrupted.set()
                scope.cancel()

    try:
        async with together() as watchers:
            with anyio.CancelScope() as scope:
                watchers.start_soon(watch, scope)
                done.append(await work())
            watchers.cancel_scope.cancel()
    except BaseException:
        if not interrupted.is_set():
            raise
    if interrupted.is_set():
        raise KeyboardInterrupt
    return done[0]


async def answered(work: Callable[[], Awaitable[T]], seconds: float = ANSWER_SECONDS) -> T:
    """Return the result of the work, even if cancelled meanwhile: then it has `seconds` left.

    For a call that makes something on the server, which cannot be undone without its answer. The
    cancellation takes effect at the caller's next await. Without an answer in time, print that and
    raise the cancellation at once.
    """
    done: list[T] = []

    async def bound(call: anyio.CancelScope) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            call.deadline = anyio.current_time() + seconds

    try:
        async with together() as group:
            with anyio.CancelScope(shield=True) as call:
                group.start_soon(bound, call)
                done.append(await work())
            if call.cancelled_caught:
                say(f"waggle: The server has not answered within {seconds:g} s. {_LOOK}")
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    except anyio.get_cancelled_exc_class():
        if not done:
            raise
    return done[0]
