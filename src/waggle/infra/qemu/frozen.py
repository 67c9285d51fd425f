# SPDX-License-Identifier: Apache-2.0
"""A machine's memory and devices as two files in memory, which copies of it go on from.

Both are sealed: whoever has a descriptor, a QEMU that was taken over included, can read them, but
never again change them for the others (memfd_create(2), F_SEAL_WRITE).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from waggle.infra.shared.files import copy_data

RAM, STATE = "ram", "state"
"""The files that a frozen machine is kept in."""
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class FrozenQemu:
    """Implements `domain.machine.Frozen`. Owns two descriptors."""

    def __init__(self, vmm: str, mib: int = 0) -> None:
        """Empty, to be filled and then sealed; `vmm` is the QEMU that can. Raises OSError."""
        self.vmm = vmm
        self.ram = _memory("ram")
        try:
            self.state = _memory("state")
        except BaseException:
            os.close(self.ram)
            raise
        os.truncate(self.ram, mib << 20)
        self._closed = False

    @classmethod
    def load(cls, directory: Path, vmm: str, *, seal: bool = True) -> FrozenQemu:
        """Read what `save` wrote. Raises OSError."""
        frozen = cls(vmm)
        try:
            for name, target in ((RAM, frozen.ram), (STATE, frozen.state)):
                with (directory / name).open("rb") as file:
                    copy_data(file.fileno(), target)
            if seal:
                frozen.seal()
        except BaseException:
            frozen.close()
            raise
        return frozen

    def compact(self) -> None:
        """Let go of memory that holds nothing: QEMU looked at all of it. Blocks. Raises OSError."""
        whole, self.ram = self.ram, _memory("ram")
        try:
            copy_data(whole, self.ram)
        finally:
            os.close(whole)

    def seal(self) -> None:
        """Let nobody write to it again. Raises OSError while memory is mapped for writing."""
        for descriptor in (self.ram, self.state):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def save(self, directory: Path) -> None:
        """See `domain.machine.Frozen.save`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for name, source in ((RAM, self.ram), (STATE, self.state)):
            with os.fdopen(os.open(directory / name, flags, 0o600), "wb") as file:
                copy_data(source, file.fileno())
                os.fsync(file.fileno())

    def close(self) -> None:
        """See `domain.machine.Frozen.close`."""
        if not self._closed:
            self._closed = True
            os.close(self.ram)
            os.close(self.state)


def reopened(descriptor: int) -> int:
    """A descriptor of the same file with an offset of its own, to be closed. Raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def _memory(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
