# SPDX-License-Identifier: Apache-2.0
"""What the protocol says of files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from waggle.infra.guest.protocol.fields import (
    MAX_READ,
    Base64,
    Count,
    Message,
    Name,
    Part,
    Path,
    Result,
    Time,
)

Mode = Annotated[int, Field(ge=0, le=0o7777)]
"""The permission bits of a file, as a number."""
Offset = Annotated[int, Field(ge=0, le=2**53 - 1)]


class FileRead(Message):
    """Read a part of a regular file: `length` bytes from `offset`, or what there is of them."""

    path: Path
    offset: Offset = 0
    length: Annotated[int, Field(ge=0, le=MAX_READ)] | None = None


class FileData(Result):
    """A part of a file. `end` says that nothing follows; `size` and `modified` are the file's."""

    data: Base64
    end: bool
    size: Count
    mode: Mode
    modified: Time


class FileWrite(Message):
    """Write to a regular file.

    Without `offset` the file is made, or emptied first; with it the bytes go there and the rest
    stays, so that large files are written in parts, and each part may be sent again. `mode` is for
    a new file and holds as it is (there is no umask); by default 0644.
    """

    path: Path
    data: Base64
    offset: Offset | None = None
    mode: Annotated[int, Field(ge=0, le=0o777)] | None = None


class Written(Result):
    """How much was written, and how long the file is now."""

    written: Count
    size: Count


class ListDirectory(Message):
    """List a directory from its entry number `offset` on, in the file system's order."""

    path: Path
    offset: Offset = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000


class Kind(StrEnum):
    """What an entry of a directory is. A symbolic link is not followed."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    DEVICE = "device"
    FIFO = "fifo"
    SOCKET = "socket"
    UNKNOWN = "unknown"


class Entry(Part):
    """An entry. `raw_name` is there where the name is not UTF-8; `name` then has U+FFFD in it."""

    name: Name
    raw_name: Base64 | None = None
    kind: Annotated[Kind, Field(strict=False)]
    size: Count
    mode: Mode
    modified: Time


class Listing(Result):
    """Entries of a directory, without `.` and `..`. If there are `more`, ask with an offset."""

    entries: Annotated[list[Entry], Field(max_length=1000)]
    more: bool
