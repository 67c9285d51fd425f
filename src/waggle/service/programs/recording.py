# SPDX-License-Identifier: Apache-2.0
"""What a program printed, kept for whoever reads it later. `waggle.infra.shared.spool` keeps it.

Used by `job` for output and by `trees` for archives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from waggle.domain.programs.execution import Output, Stream


class Recording(Stream, Protocol):
    """A stream that can be read again while it is written. `waggle.infra.shared.spool` has one."""

    @property
    def total(self) -> int:
        """Bytes that were written."""
        ...

    @property
    def kept(self) -> int:
        """Bytes kept of its beginning."""
        ...

    @property
    def tail(self) -> int:
        """Where what is kept of its end begins; nothing is between `kept` and that."""
        ...

    @property
    def disk_full(self) -> bool:
        """Whether something was not kept because the server's disk is full."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes; fewer at the end. ValueError where nothing was kept."""
        ...

    def last_line(self) -> str:
        """The last line that is not empty. The guest wrote it."""
        ...

    def close(self) -> None:
        """Free what is kept. Idempotent."""
        ...


NewRecording = Callable[[], Recording]


@dataclass(frozen=True, slots=True)
class Watched:
    """A recording that tells when something was fed."""

    recording: Recording
    grown: Callable[[], None]

    def feed(self, data: bytes) -> None:
        """Keep it, and tell."""
        self.recording.feed(data)
        self.grown()

    def output(self) -> Output:
        """As the recording has it."""
        return self.recording.output()
