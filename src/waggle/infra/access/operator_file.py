# SPDX-License-Identifier: Apache-2.0
"""Reading the operator's files: tokens, secrets and network rules, which a server reads again.

Each of them says itself what it accepts and how its errors read; this knows only files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from waggle.domain.errors import SettingsInvalid

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 1.0
_Entry = TypeVar("_Entry")
Mark = tuple[int, int, int, int, int]
"""What changes when a file does."""


def mark_of(status: os.stat_result) -> Mark:
    """Return the mark of a version of a file."""
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def read_checked(
    path: Path, most: int, check: Callable[[os.stat_result], None]
) -> tuple[bytes, Mark]:
    """Return at most one byte more than `most`, and the mark of what was read.

    `check` sees the open file before it is read. Raises OSError and what `check` raises.
    """
    # Not blocking: a named pipe is for `check` to refuse, not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        check(status)
        return file.read(most + 1), mark_of(status)


def is_ours(status: os.stat_result) -> bool:
    """Whether a file belongs to root or to the user of the server."""
    return status.st_uid in (0, os.geteuid())


def require_private(path: Path, words: str, status: os.stat_result, forbidden: int) -> None:
    """Raise SettingsInvalid unless it is a regular file of ours without the `forbidden` mode bits.

    `words` say what the file is.
    """
    if not stat.S_ISREG(status.st_mode):
        raise SettingsInvalid(f"The {words} {path} is no regular file.")
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        raise SettingsInvalid(
            f"The {words} {path} is open to others (mode {mode:04o}).",
            hint=f"Run: chmod 600 {path}",
        )
    if not is_ours(status):
        raise SettingsInvalid(
            f"The {words} {path} belongs to another user.",
            hint="It must be root's or that of the user of the server.",
        )


class Reloaded(Generic[_Entry]):
    """The entries of a file, read again when it changes. If it becomes unusable, the last stay."""

    def __init__(
        self,
        path: Path,
        words: str,
        load: Callable[[], tuple[Mapping[str, _Entry], Mark | None]],
        *,
        monotonic: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Load it. Raises SettingsInvalid, as `load` does.

        `load` returns the mark None if there is no file, `words` begin events in the log, and
        `changed` is called after a change.
        """
        self._path = path
        self._words = words
        self._load = load
        self._monotonic = monotonic
        self._changed = changed
        self.problem: str | None = None
        """Why the file as it is now is not in use, if that is so."""
        self.version = 1
        """A number that changes with the entries."""
        self.entries, self._mark = load()
        self._checked = monotonic()

    def refresh(self) -> Mapping[str, _Entry]:
        """Return the entries; look for a change first, at most once a second."""
        now = self._monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            try:
                mark = mark_of(self._path.stat())
            except OSError:
                mark = None
            if mark != self._mark:
                self._reload(mark)
        return self.entries

    def reread(self) -> str | None:
        """Read the file now, whether it changed or not. Return why it cannot be used, or None."""
        self._checked = self._monotonic()
        try:
            mark = mark_of(self._path.stat())
        except OSError:
            mark = None
        self._reload(mark)
        return self.problem

    def replace(self, entries: Mapping[str, _Entry]) -> None:
        """Use these entries, which were written to the file. Raises OSError."""
        self.entries, self._mark = entries, mark_of(self._path.stat())
        self.version += 1

    def _reload(self, mark: Mark | None) -> None:
        try:
            self.entries, self._mark = self._load()
        except SettingsInvalid as error:
            self._mark, self.problem = mark, error.message
            kept = len(self.entries)
            log.error(f"{self._words}_not_reloaded", why=error.message, kept=kept)
        else:
            self.problem = None
            self.version += 1
            self._changed()
            log.info(f"{self._words}_reloaded", file=str(self._path), entries=len(self.entries))
