# SPDX-License-Identifier: Apache-2.0
"""What one tree has over another, as the tree of a layer: changes, and whiteouts for what is gone.

Called by `build`. Times do not count: a file is the same when its content and attributes are.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from waggle.infra.oci.layers.merge import Node

_CHUNK = 1 << 20


def difference(
    lower: Node,
    lower_files: Sequence[Path],
    upper: Node,
    upper_files: Sequence[Path],
    *,
    removals: bool,
) -> Node:
    """Return the part of `upper` that makes it from `lower`; its contents are in `upper_files`.

    Without `removals`, what `upper` lacks is not taken as gone. The directories on the way to a
    change are in it, as `upper` has them. Reads both sides of the files that may be the same;
    raises OSError.
    """
    with contextlib.ExitStack() as stack:

        def opened(files: Sequence[Path]) -> list[int]:
            return [stack.enter_context(path.open("rb")).fileno() for path in files]

        return _Differ(opened(lower_files), opened(upper_files), removals).changes(lower, upper)


def adopt(lower: Node, upper: Node) -> None:
    """Give the directories of `upper` the owner and mode that they have in `lower`.

    For a tree that holds only additions, whose directories nobody described.
    """
    pairs = [(lower, upper)]
    while pairs:
        below, above = pairs.pop()
        above.mode, above.uid, above.gid, above.xattrs = (
            below.mode, below.uid, below.gid, below.xattrs,
        )  # fmt: skip
        above.mtime_ns = below.mtime_ns
        for name, child in above.children.items():
            found = below.children.get(name)
            if child.is_dir and found is not None and found.is_dir:
                pairs.append((found, child))


class _Differ:
    def __init__(self, lower: Sequence[int], upper: Sequence[int], removals: bool) -> None:
        self._lower = lower
        self._upper = upper
        self._removals = removals

    def changes(self, lower: Node, upper: Node) -> Node:
        """Return `upper` with those children only that differ, and whiteouts."""
        changed = Node(upper.mode, upper.uid, upper.gid, upper.mtime_ns, xattrs=upper.xattrs)
        gone = lower.children.keys() - upper.children.keys() if self._removals else ()
        for name in gone:
            changed.children[b".wh." + name] = Node(stat.S_IFREG | 0o644)
        for name, node in upper.children.items():
            old = lower.children.get(name)
            if old is None or old.is_dir != node.is_dir:
                changed.children[name] = node
            elif not node.is_dir:
                if not self._same(old, node):
                    changed.children[name] = node
            else:
                inner = self.changes(old, node)
                if inner.children or not _alike(old, node):
                    changed.children[name] = inner
        return changed

    def _same(self, old: Node, new: Node) -> bool:
        return (
            _alike(old, new)
            and (old.size, old.link, old.device) == (new.size, new.link, new.device)
            and self._same_content(old, new)
        )

    def _same_content(self, old: Node, new: Node) -> bool:
        (source, start), (other, begin) = old.content, new.content
        return all(
            os.pread(self._lower[source], size, start + at)
            == os.pread(self._upper[other], size, begin + at)
            for at in range(0, new.size, _CHUNK)
            for size in [min(_CHUNK, new.size - at)]
        )


def _alike(old: Node, new: Node) -> bool:
    return (old.mode, old.uid, old.gid, sorted(old.xattrs)) == (
        new.mode,
        new.uid,
        new.gid,
        sorted(new.xattrs),
    )
