# SPDX-License-Identifier: Apache-2.0
"""The state of frozen machines on its way through a VMM's /run, which the VMM may have filled.

`machine` uses it. The files that Firecracker writes memory to are made here first, whole: so the
memory that they take is the server's, and not the machine's, whose limit they would exceed. To take
that room costs more than all else, so for the changes of a copy there is none unless they are many.
A VMM that its guest has taken over writes what it likes, so sizes and kinds are checked; what is in
them is only ever that guest's. Blocks; knows no API.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from waggle.infra.firecracker.configuration import MEMORY, STATE
from waggle.infra.guest.frozen import FrozenFiles, memory_in
from waggle.infra.shared.sparse import write_at
from waggle.infra.vmm import placed
from waggle.infra.vmm.version import TITLES, Vmm

MAX_STATE: Final = 16 << 20
"""Bytes; the devices of a machine take about 50 kB."""
_CHUNK = 1 << 20
_SPARE_KIB: Final = 384 << 10
"""Of the 512 MiB that a machine's limit has besides its memory; see `shared.cgroups`."""
_TITLE: Final = TITLES[Vmm.FIRECRACKER]


def put_state(run: int, state: int, uid: int | None) -> None:
    """Give a VMM the state of its devices, as a file in its /run. Raises OSError."""
    placed.put(state, run, STATE, uid)


def make_memory(run: int, uid: int | None) -> int:
    """Make and return the file for a machine's memory, to be prepared.

    Raises OSError. The caller closes it, and calls `discard`.
    """
    return placed.make(run, MEMORY, uid)


def prepare(memory: int, mib: int, *, changes: bool) -> None:
    """Take the room for all memory, or only none yet where `changes` are written.

    Raises OSError, also without room.
    """
    if changes:
        os.ftruncate(memory, mib << 20)
    else:
        os.posix_fallocate(memory, 0, mib << 20)


def take_room(memory: int, mib: int, vmm: int) -> bool:
    """Take the room for all memory after all, if a paused VMM changed much; return whether it did.

    Of little changes those that it writes fit its limit beside those in its memory. With the room,
    the caller copies there what the machine began with. Raises OSError, also without room.
    """
    if _changed_little(vmm, mib):
        return False
    os.posix_fallocate(memory, 0, mib << 20)
    return True


def _changed_little(vmm: int, mib: int) -> bool:
    """Whether what process `vmm` has changed leaves room for what it writes, whatever that is.

    It may write all memory, also what its guest has freed, and what it has itself counts besides.
    """
    try:
        lines = Path(f"/proc/{vmm}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:  # it has ended, or it is not for this user to know
        return False
    [kib] = (int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    return kib <= min(mib << 9, _SPARE_KIB)


def state_in(run: int) -> bytes:
    """Return the state of its devices that the VMM has written. Raises BootFailed, OSError."""
    return placed.take(run, STATE, MAX_STATE, _TITLE)


def take(
    state: bytes, memory: int, mib: int, base: int | None, vmm: str, into: Path | None
) -> FrozenFiles:
    """Move what the VMM has written, without empty memory. Raises BootFailed, OSError.

    The memory goes to memory, or to its file in the directory `into`. With a `base` the VMM has
    written only what has changed since, to a file without room: that would look like changes once
    the kernel has swapped it out. `vmm` is the program of the state.
    """
    on_disk, in_place = (None, False) if into is None else memory_in(into, base)
    copy = FrozenFiles(vmm, on_disk=on_disk)
    try:
        write_at(copy.state, state, 0)
        if in_place:
            copy.changed = placed.take_changes(memory, copy.ram, mib, _TITLE)
        else:
            placed.take_memory(memory, copy.ram, mib, _TITLE, move=True, base=base)
        copy.seal()
    except BaseException:
        copy.close()
        raise
    return copy


def discard(run: int) -> None:
    """Remove what a snapshot leaves in /run. Idempotent; does not raise."""
    placed.remove(run, STATE, MEMORY)
