# SPDX-License-Identifier: Apache-2.0
"""Reading the operator's files: tokens, secrets and network rules, which a server reads again.

Each of them says itself what it accepts and how its errors read; this knows only files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from waggle.domain.errors import SettingsInvalid

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
