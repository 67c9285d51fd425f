# SPDX-License-Identifier: Apache-2.0
"""Scratch disks: the writable layer of one environment, an ext4 file system in a sparse file.

An empty one of each size is made once with mke2fs and then copied, data only, which takes
milliseconds. No journal: the disk dies with its machine. Called by the local host.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from waggle.infra.shared import debian
from waggle.infra.shared.files import FileLock, clone

_FORMAT = 2
_LOCK_SECONDS = 60.0
_UUID = "c6d5b2a0-6a5e-4d0b-9f3b-2f1f8f6f7a01"
"""Of every scratch disk; nothing mounts by it, and equal inputs make equal disks."""


class ScratchDisks:
    """Makes scratch disks from empty ones kept in `directory`; safe for several processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def make(self, mib: int, target: Path) -> None:
        """Make an empty disk of `mib` MiB at `target`, which must not exist.

        Raises SetupIncomplete without mke2fs, OSError when the host's disk is full.
        """
        template = await self._template(mib)
        await asyncio.to_thread(clone, template, target)

    async def _template(self, mib: int) -> Path:
        path = self._directory / f"scratch-{mib}.v{_FORMAT}.ext4"
        if path.exists():
            return path
        self._directory.mkdir(parents=True, exist_ok=True)
        async with FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            if not path.exists():
                await self._format(mib, path)
        return path

    async def _format(self, mib: int, path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".scratch-", dir=self._directory) as name:
            disk, commands = Path(name, "disk"), Path(name, "commands")
            disk.touch()
            os.truncate(disk, mib << 20)
            commands.write_text("mkdir upper\nmkdir work\n", "ascii")
            await debian.run(mke2fs_argv(disk))
            await debian.run([_tool("debugfs"), "-w", "-f", str(commands), str(disk)])
            disk.chmod(0o444)
            disk.rename(path)


def mke2fs_argv(disk: Path) -> list[str]:
    """The command that formats the empty file `disk`. Pure but for finding the program.

    mke2fs discards the file first and so knows that its inode tables are zeros: the guest's kernel
    need not write them. It cannot make directories that belong to root unless it is root (`-d`
    keeps their owner), which is why debugfs makes `upper` and `work`.
    """
    return [
        *(_tool("mke2fs"), "-q", "-F", "-t", "ext4", "-m", "0", "-U", _UUID),
        *("-O", "^has_journal,^resize_inode", "-i", "8192"),
        *("-E", f"discard,root_owner=0:0,hash_seed={_UUID}", str(disk)),
    ]


def _tool(name: str) -> str:
    """Find a program that Debian keeps off the PATH of users who are not root."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") or name
