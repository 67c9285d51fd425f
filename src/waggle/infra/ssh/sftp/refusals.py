# SPDX-License-Identifier: Apache-2.0
"""SFTP's status codes as errors that say what is wrong with the path. Pure."""

from __future__ import annotations

from typing import Final

import asyncssh

from waggle.domain.errors import FileNotFound, FileRefused
from waggle.infra.ssh.sftp.entries import shown

DISK_FULL: Final = "The environment's disk is too full for it."
_MAX_REASON: Final = 100


def refusal(path: str, error: asyncssh.SFTPError) -> FileNotFound | FileRefused:
    """The error for a request on `path` that the guest's file server refused."""
    if isinstance(error, asyncssh.SFTPNoSuchFile | asyncssh.SFTPNoSuchPath):
        return FileNotFound(f"There is no {shown(path)} in the environment.")
    if isinstance(error, asyncssh.SFTPPermissionDenied):
        return FileRefused(
            f"The environment's user may not do that with {shown(path)}.",
            hint="Use a path under /home/sandbox or /tmp, or change it in a shell as user 'root'.",
        )
    reason = "".join(c if c.isprintable() else "?" for c in error.reason[:_MAX_REASON])
    return FileRefused(
        f"The guest refused {shown(path)}: {reason or 'no reason given'}.",
        hint="A name may be too long, or a part of the path may not be a directory.",
    )
