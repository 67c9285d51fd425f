# SPDX-License-Identifier: Apache-2.0
"""A machine's memory and the state of frozen machines, in a VMM's /run, which it may have filled.

`machine` uses it. A machine that boots has its memory in a file here, which its snapshot leaves
out: the file is copied instead. A copy maps its memory privately, so its snapshot has all of it. A
VMM that its guest has taken over writes what it likes: kinds and sizes are checked, and what is in
them is only ever that guest's. Blocks; knows no API.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Any, Final, cast

from waggle.domain.errors import BootFailed
from waggle.infra.cloud_hypervisor.configuration import (
    CONFIG,
    CONSOLE,
    MEMORY,
    RANGES,
    SNAPSHOT,
    STATE,
)
from waggle.infra.guest.frozen import FrozenFiles
from waggle.infra.shared.sparse import write_at
from waggle.infra.vmm import placed
from waggle.infra.vmm.version import TITLES, Vmm
from waggle.structure import Bounds, Structure

MAX_STATE: Final = 4 << 20
"""Bytes; the devices of a machine take about 100 kB."""
_BOUNDS: Final = Bounds(containers=20_000, commas=200_000, depth=32, outside=MAX_STATE)
_MANAGER: Final = "memory-manager"
_TITLE: Final = TITLES[Vmm.CLOUD_HYPERVISOR]


def make_memory(run: int, mib: int, uid: int | None) -> int:
    """Make and return the file that is a machine's memory. Raises OSError. The caller closes it."""
    memory = placed.make(run, MEMORY, uid)
    try:
        os.truncate(memory, mib << 20)
    except BaseException:
        os.close(memory)
        raise
    return memory


def make_console(run: int, uid: int | None) -> int:
    """Make the pipe that the VMM opens as the machine's console, and return its other end.

    Raises OSError, also if the VMM has put something else there. The caller closes it.
    """
    os.mkfifo(CONSOLE, 0o600, dir_fd=run)
    console = placed.found(run, CONSOLE)
    if not stat.S_ISFIFO(os.fstat(console).st_mode):
        os.close(console)
        raise FileExistsError("the console is no pipe")
    return placed.give(console, uid)


def bar_console(run: int) -> None:
    """Put something else in the place of the console's pipe, which the VMM has open by now.

    At a reset, also that of a kernel that panicked, the VMM would boot the machine anew; then it
    cannot open its console, and ends. Raises OSError.
    """
    os.unlink(CONSOLE, dir_fd=run)
    os.mkdir(CONSOLE, 0o500, dir_fd=run)


def make_directory(run: int, uid: int | None) -> int:
    """Make and return the directory that a snapshot comes from or goes to. Raises OSError."""
    os.mkdir(SNAPSHOT, 0o700, dir_fd=run)
    return placed.give(placed.found(run, SNAPSHOT, os.O_DIRECTORY), uid)


def put(run: int, config: bytes, state: int, uid: int | None) -> None:
    """Give a VMM a snapshot to restore: our configuration and what it wrote. Raises OSError."""
    directory = make_directory(run, uid)
    try:
        placed.put(config, directory, CONFIG, uid)
        placed.put(state, directory, STATE, uid)
    finally:
        os.close(directory)


def take(directory: int, memory: int | None, mib: int, copy: FrozenFiles) -> None:
    """Move what the VMM has written to `copy`, and its memory, without what is empty.

    `memory` is the machine's file, or None for a copy. Raises BootFailed, OSError.
    """
    state = placed.take(directory, STATE, MAX_STATE, _TITLE)
    if memory is not None:
        placed.take_memory(memory, copy.ram, mib, _TITLE, move=False)  # the VMM runs on with it
    else:
        with placed.opened(directory, RANGES, os.O_RDWR) as ranges:
            placed.take_memory(ranges, copy.ram, mib, _TITLE, move=True)
    write_at(copy.state, without_memory(state), 0)


def without_memory(state: bytes) -> bytes:
    """Return a state whose memory is not in the snapshot: copies have it mapped already. Pure.

    Raises BootFailed for what is no state.
    """
    try:
        Structure(_BOUNDS).feed(state)
        found = json.loads(state)
        data = found["snapshots"][_MANAGER]["snapshot_data"]
        inner = cast("str", data["state"])
        Structure(_BOUNDS).feed(inner.encode())
        manager: Any = json.loads(inner)
        manager["memory_ranges"]["data"] = []
        data["state"] = json.dumps(manager, separators=(",", ":"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BootFailed("Cloud Hypervisor wrote no state of its memory.") from error
    return json.dumps(found, separators=(",", ":")).encode()


def discard(run: int) -> None:
    """Remove what a snapshot leaves in /run. Idempotent; does not raise."""
    with contextlib.suppress(OSError):  # there is none, or something is left in it
        with placed.opened(run, SNAPSHOT, os.O_DIRECTORY) as directory:
            placed.remove(directory, CONFIG, STATE, RANGES)
        os.rmdir(SNAPSHOT, dir_fd=run)
