# SPDX-License-Identifier: Apache-2.0
"""The shape of a file tree that can be written as a disk. `oci.plan.Node` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self


class TreeNode(Protocol):
    """A file of the tree; one object under two names is a hard link. See `oci.plan.Node`."""

    @property
    def mode(self) -> int:
        """Type and permission bits, as `stat` has them."""
        ...

    @property
    def uid(self) -> int:
        """Numeric owner."""
        ...

    @property
    def gid(self) -> int:
        """Numeric group."""
        ...

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since the epoch; may be negative."""
        ...

    @property
    def size(self) -> int:
        """Bytes of a regular file."""
        ...

    @property
    def link(self) -> bytes:
        """Target of a symlink."""
        ...

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device."""
        ...

    @property
    def xattrs(self) -> Sequence[tuple[bytes, bytes]]:
        """Extended attributes with their full names."""
        ...

    @property
    def content(self) -> tuple[int, int]:
        """Which of the files holds the contents, and where they start."""
        ...

    @property
    def children(self) -> Mapping[bytes, Self]:
        """Names in a directory; empty for anything else."""
        ...
