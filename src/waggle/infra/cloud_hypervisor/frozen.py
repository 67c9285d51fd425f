# SPDX-License-Identifier: Apache-2.0
"""A machine's memory and the state of frozen machines, in a VMM's /run, which it may have filled.

`machine` uses it. A machine that boots has its memory in a file here, which its snapshot leaves
out: the file is copied instead. A copy maps its memory privately, so its snapshot has all of it. A
VMM that its guest has taken over writes what it likes: kinds and sizes are checked, and what is in
them is only ever that guest's. Blocks; knows no API.
"""

from __future__ import annotations

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
from waggle.infra.shared.files import copy_data, write_at
from waggle.structure import Bounds, Structure

MAX_STATE: Final = 4 << 20
"""Bytes; the devices of a machine take about 100 kB."""
_BOUNDS: Final = Bounds(containers=20_000, commas=200_000, depth=32, outside=MAX_STATE)
_MANAGER: Final = "memory-manager"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOUND = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = _FOUND | os.O_DIRECTORY


def make_memory(run: int, mib: int, uid: int | None) -> int:
    """Make and return the file that is a machine's memory. Raises OSError. The caller closes it."""
    memory = os.open(MEMORY, _NEW, 0o600, dir_fd=run)
    try:
        os.truncate(memory, mib << 20)
        _give(memory, uid)
    except BaseException:
        os.close(memory)
        raise
    return memory


def make_console(run: int, uid: int | None) -> int:
    """Make the pipe that the VMM opens as the machine's console, and return its other end.

    Raises OSError, also if the VMM has put something else there. The caller closes it.
    """
    os.mkfifo(CONSOLE, 0o600, dir_fd=run)
    console = os.open(CONSOLE, _FOUND, dir_fd=run)
    try:
        if not stat.S_ISFIFO(os.fstat(console).st_mode):
            raise FileExistsError("the console is no pipe")
        _give(console, uid)
    except BaseException:
        os.close(console)
        raise
    return console


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
    directory = os.open(SNAPSHOT, _DIRECTORY, dir_fd=run)
    try:
        _give(directory, uid)
    except BaseException:
        os.close(directory)
        raise
    return directory


def put(run: int, config: bytes, state: int, uid: int | None) -> None:
    """Give a VMM a snapshot to restore: our configuration and what it wrote. Raises OSError."""
    directory = make_directory(run, uid)
    try:
        target = os.open(CONFIG, _NEW, 0o600, dir_fd=directory)
        try:
            write_at(target, config, 0)
            _give(target, uid)
        finally:
            os.close(target)
        target = os.open(STATE, _NEW, 0o600, dir_fd=directory)
        try:
            copy_data(state, target)
            _give(target, uid)
        finally:
            os.close(target)
    finally:
        os.close(directory)


def take(directory: int, memory: int | None, mib: int, copy: FrozenFiles) -> None:
    """Move what the VMM has written to `copy`, and its memory, without what is empty.

    `memory` is the machine's file, or None for a copy. Raises BootFailed, OSError.
    """
    state = _read_state(directory)
    if memory is not None:
        _take_memory(memory, mib, copy)
    else:
        ranges = os.open(RANGES, _FOUND, dir_fd=directory)
        try:
            _take_memory(ranges, mib, copy)
        finally:
            os.close(ranges)
    write_at(copy.state, without_memory(state), 0)


def _take_memory(memory: int, mib: int, copy: FrozenFiles) -> None:
    about = os.fstat(memory)
    if not stat.S_ISREG(about.st_mode) or about.st_size != mib << 20:
        raise BootFailed("Cloud Hypervisor wrote a memory of another size.")
    copy_data(memory, copy.ram, mib << 20)  # it may have another size by now


def _read_state(directory: int) -> bytes:
    state = os.open(STATE, _FOUND, dir_fd=directory)
    with os.fdopen(state, "rb") as file:
        about = os.fstat(state)
        if not stat.S_ISREG(about.st_mode) or not 0 < about.st_size <= MAX_STATE:
            raise BootFailed("Cloud Hypervisor wrote no state of its devices.")
        return file.read(MAX_STATE)


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
    try:
        directory = os.open(SNAPSHOT, _DIRECTORY, dir_fd=run)
    except OSError:
        return
    try:
        for name in (CONFIG, STATE, RANGES):
            try:
                os.unlink(name, dir_fd=directory)
            except OSError:  # none, or the VMM made a directory of it: it ends with the VMM
                continue
        os.rmdir(SNAPSHOT, dir_fd=run)
    except OSError:  # as above
        return
    finally:
        os.close(directory)


def _give(descriptor: int, uid: int | None) -> None:
    if uid is not None:
        os.fchown(descriptor, uid, uid)
