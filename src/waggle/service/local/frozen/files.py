# SPDX-License-Identifier: Apache-2.0
"""The disks and directories of machines that are being frozen. Used by `Freezer`; knows no machine.

All but `new_directory` block. They raise OSError.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from waggle.domain.machine import IDENTITY, RAM, SCRATCH, GuestDisks
from waggle.infra.shared.files import sync
from waggle.infra.shared.work import place, workspace
from waggle.tasks import finish


@contextlib.asynccontextmanager
async def new_directory(parent: Path) -> AsyncGenerator[Path]:
    """Yield an empty directory in a workspace, which a thread removes at the end of the block."""
    stack = contextlib.ExitStack()
    work = stack.enter_context(workspace(parent, 0o700)) / "frozen"
    try:
        work.mkdir(mode=0o700)
        yield work
    finally:
        await finish(asyncio.to_thread(stack.close))


def lend(memory: Path, work: Path) -> None:
    """Have a machine's own memory, if it has one, also where the machine is frozen.

    It may change there, so no power cut may bring back the frozen machine that it was part of.
    """
    with contextlib.suppress(FileNotFoundError):
        os.link(memory, work / RAM)
        sync(memory.parent)


def link(source: Path, target: Path) -> None:
    """Link all files into a new directory, which is whole or does not exist."""
    with workspace(target.parent, 0o700) as work:
        copy = work / "copy"
        copy.mkdir(mode=0o700)
        for path in source.iterdir():
            os.link(path, copy / path.name)
        place(copy, target)


def add_disks(copy: Callable[[Path, Path], None], disks: GuestDisks, work: Path) -> None:
    """Copy the scratch disk to a frozen machine, and give it an empty identity disk."""
    copy(disks.scratch, work / SCRATCH)
    blank(disks.identity, work / IDENTITY)


def blank(model: Path, target: Path) -> None:
    """Make an empty disk of the same size: copies get their identity by another channel."""
    with target.open("xb") as file:
        file.truncate(model.stat().st_size)
