# SPDX-License-Identifier: Apache-2.0
"""The memory and the devices of a frozen machine, as two sealed files in memory.

Used by the hypervisors that freeze machines, each of which fills them in its own way. Knows no VMM.
Of a machine that is paused to disk, the memory may be a file on the disk instead: the same one as
long as the machine lives, which its VMM maps and to which every pause adds what has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path

from waggle.domain.machine import RAM, STATE
from waggle.infra.shared.sparse import copy_data

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class FrozenFiles:
    """Memory and devices as two files in memory; implements `domain.machine.FrozenState`.

    Owns both descriptors. Sealed files can be read but never changed again, not even by a VMM
    that its guest took over (memfd_create(2), F_SEAL_WRITE).
    """

    def __init__(self, vmm: str, mib: int = 0, *, on_disk: int | None = None) -> None:
        """Make empty files to fill and seal; `vmm` is the program of the state. Raises OSError.

        `on_disk` is a file for the memory, which is this object's from now on.
        """
        self.vmm = vmm
        self.is_on_disk = on_disk is not None
        self.changed: Sequence[tuple[int, int]] | None = None
        self.ram = _memory("ram") if on_disk is None else on_disk
        try:
            self.state = _memory("state")
        except BaseException:
            os.close(self.ram)
            raise
        self._closed = False
        if on_disk is None:
            os.truncate(self.ram, mib << 20)

    @classmethod
    def load(
        cls, directory: Path, vmm: str, *, seal: bool = True, on_disk: bool = False
    ) -> FrozenFiles:
        """Load the files that `save` wrote; `on_disk` leaves the memory there. Raises OSError."""
        frozen = cls(vmm, on_disk=_for_vmms(directory / RAM) if on_disk else None)
        try:
            for name, target in frozen._in_memory.items():
                with (directory / name).open("rb") as file:
                    copy_data(file.fileno(), target)
            if seal:
                frozen.seal()
        except BaseException:
            frozen.close()
            raise
        return frozen

    @property
    def _in_memory(self) -> dict[str, int]:
        """What is in memory, by the names that `save` gives it."""
        return {STATE: self.state} if self.is_on_disk else {RAM: self.ram, STATE: self.state}

    def compact(self) -> None:
        """Release empty memory, which a VMM that has ended touched. Blocks. Raises OSError."""
        whole, self.ram = self.ram, _memory("ram")
        try:
            copy_data(whole, self.ram, move=True)
        finally:
            os.close(whole)

    def seal(self, patience: float = 2.0) -> None:
        """Forbid writes to what is in memory. Blocks. Raises OSError if it stays mapped for that.

        The kernel answers EBUSY also while it still holds a page that was just written; that
        passes within `patience` seconds.
        """
        deadline = time.monotonic() + patience
        for descriptor in self._in_memory.values():
            while True:
                try:
                    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                        raise
                time.sleep(0.05)

    def save(self, directory: Path) -> None:
        """See `domain.machine.FrozenState.save`."""
        for name, source in self._in_memory.items():
            with os.fdopen(os.open(directory / name, _NEW, 0o600), "wb") as file:
                copy_data(source, file.fileno())
                os.fsync(file.fileno())

    def close(self) -> None:
        """See `domain.machine.FrozenState.close`."""
        if not self._closed:
            self._closed = True
            let_go(self.ram, self.state)


def memory_in(directory: Path, base: int | None) -> tuple[int, bool]:
    """Open the file for a machine's memory in a directory; return whether it is `base` itself.

    Any other is replaced by an empty one. The caller closes it. Raises OSError.
    """
    path = directory / RAM
    if base is not None:
        with contextlib.suppress(FileNotFoundError):
            # Its user's VMM may have a lease on it, and would not give that up.
            found = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            if os.path.samestat(os.fstat(found), os.fstat(base)):
                return found, True
            os.close(found)
    path.unlink(missing_ok=True)
    return os.open(path, _NEW, 0o600), False


class Origin:
    """The frozen machine of a copy: open until `close`."""

    def __init__(self, ram: int, state: int) -> None:
        """Hold the same files. Raises OSError."""
        self.ram = os.dup(ram)
        try:
            self.state = os.dup(state)
        except BaseException:
            os.close(self.ram)
            raise

    def close(self) -> None:
        """Let the files go, unless machines map them. Call it once."""
        let_go(self.ram, self.state)


def _for_vmms(path: Path) -> int:
    """Open a file that VMMs of other users may read; its directory keeps all others out."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o644)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def reopened(descriptor: int) -> int:
    """Open the same file with its own offset; the caller closes it. Raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def held(descriptor: int, stack: contextlib.ExitStack) -> int:
    """Return the same file for as long as the stack, whoever closes `descriptor` meanwhile.

    A thread that works on must not find another file behind the number. Raises OSError.
    """
    own = os.dup(descriptor)
    stack.callback(let_go, own)
    return own


def let_go(*descriptors: int) -> None:
    """Close files that hold memory; in a thread where a loop runs. Does not wait or raise.

    The kernel takes 0.15 s to free a GiB.
    """
    try:
        asyncio.get_running_loop().run_in_executor(None, _close, *descriptors)
    except RuntimeError:  # this is a thread, or the loop's have ended
        _close(*descriptors)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _memory(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
