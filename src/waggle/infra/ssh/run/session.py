# SPDX-License-Identifier: Apache-2.0
"""One command's channel as `shell` sees it: output, end, and whether the end was told."""

from __future__ import annotations

import asyncio

import asyncssh

from waggle.domain.programs.execution import Streams
from waggle.infra.ssh.run.left import Ending
from waggle.infra.ssh.run.output import OutputCollector
from waggle.infra.ssh.typed import STDERR


class CommandSession(asyncssh.SSHClientSession[bytes]):
    """Collects one command's output and end; what the guest says of them is bounded."""

    def __init__(self, limit: int, into: Streams | None = None) -> None:
        """Output goes `into` streams; without them `limit` bytes of each are collected."""
        into = into or Streams(OutputCollector(limit), OutputCollector(limit))
        self.stdout, self.stderr = into.stdout, into.stderr
        self.exit_code: int | None = None
        self.signal: str | None = None
        self.ended = asyncio.Event()
        self.ending: Ending | None = None
        """Takes what the launcher adds from the end of stderr, if it may add something."""

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Called by asyncssh with a piece of output."""
        if datatype != STDERR:
            self.stdout.feed(data)
        elif piece := self.ending.feed(data) if self.ending else data:
            self.stderr.feed(piece)

    def exit_status_received(self, status: int) -> None:
        """Called by asyncssh when the command exited."""
        self.exit_code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """Called by asyncssh when a signal ended the command. The guest chose the texts."""
        self.signal = f"SIG{signal}"[:20] if signal.isalnum() else "unknown"

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncssh when the channel has closed, for whatever reason."""
        if self.ending and (rest := self.ending.rest()):
            self.stderr.feed(rest)
        self.ended.set()

    @property
    def is_complete(self) -> bool:
        """Whether the guest said how it ended, before the channel closed."""
        return self.exit_code is not None or self.signal is not None
