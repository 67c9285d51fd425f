# SPDX-License-Identifier: Apache-2.0
"""What a guest says about its files, made fit to show. Pure."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import Final

import asyncssh

from waggle.domain.files.filesystem import FileEntry

MAX_SHOWN: Final = 200
_LAST_SECOND: Final = 253_402_300_799
"""The last one of the year 9999, where `datetime` ends."""


def shown(path: str) -> str:
    """A path for a message: one line, bounded."""
    return "".join(c if c.isprintable() else "?" for c in path[:MAX_SHOWN])


def is_usable_name(name: bytes | str) -> bool:
    """Whether a directory entry has a name that a directory can hold and a user wants to see."""
    raw = _raw(name)
    return bool(raw) and raw not in (b".", b"..") and b"/" not in raw and b"\0" not in raw


def entry(name: bytes | str, attributes: asyncssh.SFTPAttrs) -> FileEntry:
    """One entry; bytes of the name that are not UTF-8 are shown escaped, as in Python."""
    kind = attributes.permissions or 0
    seconds = min(max(attributes.mtime or 0, 0), _LAST_SECOND)
    return FileEntry(
        name=_raw(name).decode("utf-8", "backslashreplace"),
        size=max(attributes.size or 0, 0),
        is_dir=stat.S_ISDIR(kind),
        is_link=stat.S_ISLNK(kind),
        mode=stat.S_IMODE(kind),
        modified=datetime.fromtimestamp(seconds, UTC),
    )


def _raw(name: bytes | str) -> bytes:
    return name if isinstance(name, bytes) else name.encode()
