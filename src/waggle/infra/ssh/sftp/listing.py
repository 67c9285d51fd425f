# SPDX-License-Identifier: Apache-2.0
"""List a guest's directory over SFTP, whatever its server sends as names. Used by `files`."""

from __future__ import annotations

import stat
from contextlib import aclosing
from typing import Final

import asyncssh

from waggle.domain.errors import FileRefused
from waggle.domain.files.filesystem import MAX_LIST_ENTRIES, FileEntry, Listing
from waggle.infra.ssh.sftp.entries import entry, is_usable_name, shown
from waggle.infra.ssh.typed import scan

_SKIPPED_ENTRIES: Final = 1_000


async def list_directory(sftp: asyncssh.SFTPClient, path: str) -> Listing:
    """At most MAX_LIST_ENTRIES entries. Raises FileRefused for what is no directory, SFTPError."""
    entries: list[FileEntry] = []
    skipped = 0
    try:
        async with aclosing(scan(sftp, path.encode())) as items:
            async for item in items:
                if len(entries) >= MAX_LIST_ENTRIES or skipped >= _SKIPPED_ENTRIES:
                    break
                if is_usable_name(item.filename):
                    entries.append(entry(item.filename, item.attrs))
                else:
                    skipped += 1
            else:
                return _listing(path, entries, truncated=False)
    except (asyncssh.SFTPFailure, asyncssh.SFTPNoSuchFile):
        attributes = await sftp.stat(path.encode())
        if stat.S_ISDIR(attributes.permissions or 0):
            raise
        raise FileRefused(
            f"{shown(path)} is not a directory.", hint="Use read_file for a file."
        ) from None
    return _listing(path, entries, truncated=True)


def _listing(path: str, entries: list[FileEntry], *, truncated: bool) -> Listing:
    return Listing(path, tuple(sorted(entries, key=lambda item: item.name)), truncated)
