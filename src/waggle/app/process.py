# SPDX-License-Identifier: Apache-2.0
"""The process of a server: its log, its signals, and the watchdog that ends it with a dead loop.

Used by `waggle.app.serving` and the commands. Logs go to stderr: stdout belongs to commands'
results and to the stdio transport. The first SIGINT or SIGTERM asks the server to stop, the second
to stop at once; SIGHUP makes it read its files again. A loop that ran out of memory, or that never
returns from one callback, would hold the port and its machines and serve no client; when the
process ends, its machines end with it, and its supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Literal, TextIO

import anyio
import anyio.abc
import structlog

log = structlog.get_logger(__name__)
_QUIET = ("asyncssh", "mcp", "uvicorn", "httpx2", "httpcore2", "asyncio")
"""Libraries that are logged from WARNING up only."""
_SILENT = ("qemu",)
"""Libraries that log errors that they also raise, and cancelled boots as errors."""


def _is_logged(record: logging.LogRecord) -> bool:
    """Whether to log `record`. A client that leaves while it is answered is not an error."""
    error = record.exc_info[1] if record.exc_info else None
    return not (record.name.startswith("mcp.") and isinstance(error, anyio.ClosedResourceError))


class _Unread:
    """Standard error of a client that may not read it: lines are dropped so as not to block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, text: str) -> int:
        """Write as much as there is room for, and drop the rest."""
        data = text.encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            while data and self._poll.poll(0):
                data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]
        return len(text)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


class _Lines(logging.StreamHandler[TextIO | _Unread]):
    """A handler for a log on a full disk: the line after a torn one begins on a new line."""

    _is_torn = False
    _begin = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or lose it. Never raises."""
        self._begin = "\n" if self._is_torn else ""
        self._is_torn = False
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, after a line end if the previous one was torn."""
        return self._begin + super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging names it)
        """Ignore an OSError: what did not fit would not fit with a traceback either."""
        self._is_torn = isinstance(sys.exc_info()[1], OSError)
        if not self._is_torn:
            super().handleError(record)


def configure_logging(
    level: str, form: Literal["auto", "console", "json"], *, waiting: bool = True
) -> None:
    """Send every log line to stderr, as text for people or as JSON for machines.

    Without `waiting`, output that the reader of stderr is too slow for is dropped.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    as_text = form == "console" or (form == "auto" and sys.stderr.isatty())
    # A traceback of rich, the usual one of the console, has the values of local variables.
    plain = structlog.dev.plain_traceback
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = _Lines(sys.stderr if waiting else _Unread(sys.stderr.fileno()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    handler.addFilter(_is_logged)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Signals:
    """The signals received so far. Run `receive` while no signal may end the process."""

    def __init__(self) -> None:
        self._stop, self._at_once = anyio.Event(), anyio.Event()

    async def receive(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive every signal until cancelled, so that none can interrupt the clean-up."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for received in signals:
                log.info("stopping", signal=received.name, at_once=self._stop.is_set())
                (self._at_once if self._stop.is_set() else self._stop).set()

    async def control(self, stop: Callable[[], None], at_once: Callable[[], None]) -> None:
        """Call `stop` at the first signal, even an earlier one, and `at_once` at the second."""
        await self._stop.wait()
        stop()
        await self._at_once.wait()
        at_once()


async def on_hangup(
    act: Callable[[], Awaitable[None]],
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Call `act` at every SIGHUP, one after the other, until cancelled."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            await act()


EXIT_CODE = 70
DEAD_SECONDS = 300
"""A loop that ran no callback for this time is dead; slow disks respond earlier."""
_TICK = 1.0
_LAST_WORDS_SECONDS = 5


def run(main: Callable[..., Awaitable[None]], *args: Any, dead_after: int = DEAD_SECONDS) -> None:
    """Run `main` as `anyio.run` does, and raise what it raises.

    When the loop fails, or runs no callback for `dead_after` seconds, print the tracebacks of all
    threads and end the process at once with EXIT_CODE.
    """

    async def watched() -> None:
        with _watching(asyncio.get_running_loop(), dead_after):
            await main(*args)

    anyio.run(watched, backend_options={"loop_factory": _Loop})


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose own failures, not those of tasks and callbacks, end the process.

    A MemoryError that is reported to the loop ends it, too.
    """

    def run_forever(self) -> None:
        try:
            super().run_forever()
        except Exception as error:
            _end(f"the event loop failed: {type(error).__name__}")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), MemoryError):
            _end("the event loop has no memory left")
        super().call_exception_handler(context)


@contextlib.contextmanager
def _watching(loop: asyncio.AbstractEventLoop, dead_after: int) -> Generator[None]:
    over = threading.Event()
    args = (loop, over, dead_after)
    threading.Thread(target=_watch, args=args, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(loop: asyncio.AbstractEventLoop, over: threading.Event, dead_after: int) -> None:
    """Watch the loop. Counts ticks instead of time: a stopped process has no ticks."""
    while not over.is_set():
        turned = threading.Event()
        with contextlib.suppress(MemoryError, RuntimeError):  # a closed loop ends soon
            loop.call_soon_threadsafe(turned.set)
        for _ in range(dead_after):
            if turned.wait(_TICK) or over.is_set():
                break
        else:
            _end(f"the event loop ran no callback for {dead_after} s")
        over.wait(_TICK)


def _end(why: str) -> None:
    """Print the reason and end the process, even if stderr is not read."""
    signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS_SECONDS)  # SIGALRM ends the process
    with contextlib.suppress(OSError, ValueError, MemoryError):
        os.write(2, f"waggle: {why}; this process ends, and its machines with it.\n".encode())
        faulthandler.dump_traceback(2)
    os._exit(EXIT_CODE)
