# SPDX-License-Identifier: Apache-2.0
"""Logging: structlog over the standard library, to stderr. Set up once by a command.

Never writes to stdout, which belongs to commands' results and to the stdio transport.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from typing import Literal, TextIO

import anyio
import structlog

_QUIET = ("asyncssh", "mcp", "uvicorn", "httpx2", "httpcore2", "asyncio")
"""Libraries that are logged from WARNING up only."""
_SILENT = ("qemu",)
"""Libraries that log errors that they also raise, and cancelled boots as errors."""


def _is_news(record: logging.LogRecord) -> bool:
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
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
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
    handler.addFilter(_is_news)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
