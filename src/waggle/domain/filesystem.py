# SPDX-License-Identifier: Apache-2.0
"""Files inside a guest.

A path belongs to the guest: everything in there is allowed, and nothing of the host can be named.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from datetime import datetime

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.execution import HOME
from waggle.domain.text import encoded

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_LIST_ENTRIES = 2_000
MAX_PATH_BYTES = 4_095
DEFAULT_MODE = 0o644


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One entry of a directory. `mode` is the permission bits; `size` is bytes."""

    name: str
    size: int
    is_dir: bool
    is_link: bool
    mode: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A part of a file: the bytes, and the size of the whole file at that moment."""

    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What tells a file from the same one after a change: bytes, and seconds since the epoch.

    Another change of the same size within the same second is not seen. `mode` is its permission
    bits.
    """

    size: int
    modified: int
    mode: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's entries by name; `truncated` when it holds more than MAX_LIST_ENTRIES."""

    path: str
    entries: tuple[FileEntry, ...]
    truncated: bool


def parse_path(text: str) -> str:
    """An absolute guest path; a relative one counts from the home directory.

    `..` is left to the guest's kernel, which resolves it inside the guest. Raises InvalidArgument
    for an empty path, one with NUL or lone surrogates, and one that is too long for any Linux.
    """
    if not text or "\0" in text:
        raise InvalidArgument(
            "The path is empty or contains a NUL character.",
            hint=f"Name it from the root, or from {HOME}, as in data/a.csv.",
        )
    path = text if text.startswith("/") else posixpath.join(HOME, text)
    if len(encoded(path, "The path")) > MAX_PATH_BYTES:
        raise InvalidArgument(
            f"The path is over {MAX_PATH_BYTES} bytes.", hint="No Linux has such paths: shorten it."
        )
    return path


def check_content(data: bytes) -> bytes:
    """What a file is to contain, as it is. Raises TooLarge."""
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(
            f"The content is {len(data)} bytes; the limit is {MAX_FILE_BYTES}.",
            hint="Write it in parts, or download it from inside the environment.",
        )
    return data


def parse_mode(text: str) -> int:
    """Permission bits from an octal string such as `0644` or `755`. Raises InvalidArgument."""
    if not (1 <= len(text) <= 4 and all(c in "01234567" for c in text)):
        raise InvalidArgument(
            f"{text[:20]!r} is not a file mode.", hint="Use octal, for example 0644 or 0755."
        )
    return int(text, 8)
