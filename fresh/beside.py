# SPDX-License-Identifier: Apache-2.0
"""Work in a thread beside the main one: its programs' output is kept, and shown when it ends.

Called by `fresh.__main__`, for a machine that is used while another is. Programs find `output()` in
`root`. Must not know what the work is.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import IO

_output: ContextVar[IO[bytes] | None] = ContextVar("output", default=None)
_running: set[subprocess.Popen[bytes]] = set()
_ended = threading.Event()


def output() -> IO[bytes] | None:
    """Return where the programs of this thread write, or None for this process's own output."""
    return _output.get()


@contextlib.contextmanager
def noted(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Let `beside` kill the process, if it is one of its thread."""
    if output() is None:
        yield
        return
    _running.add(process)
    try:
        if _ended.is_set():
            process.kill()
        yield
    finally:
        _running.discard(process)


@contextlib.contextmanager
def beside(work: Callable[[], None]) -> Generator[None]:
    """Do some work while the block runs, wait for it in the end, and raise what it raised.

    If the block raises, the programs of the work are killed.
    """
    errors: list[Exception] = []
    thread = threading.Thread(target=_apart, args=(work, errors), name="beside")
    _ended.clear()
    thread.start()
    try:
        yield
        thread.join()
    finally:
        _ended.set()
        for process in tuple(_running):
            process.kill()
        thread.join()
    if errors:
        raise errors[0]


def _apart(work: Callable[[], None], errors: list[Exception]) -> None:
    with tempfile.TemporaryFile() as file:
        _output.set(file)
        try:
            work()
        except Exception as error:
            errors.append(error)
        finally:
            file.seek(0)
            sys.stdout.flush()
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
