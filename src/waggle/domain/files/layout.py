# SPDX-License-Identifier: Apache-2.0
"""Where the entries of a tree stand, and how many names that may be. Pure.

Used for archives of clients and for what a guest packed. Whoever wrote the names may be hostile:
memory is bounded by the limits here, whatever the names are.
"""

from __future__ import annotations

from waggle.domain.errors import TooLarge
from waggle.domain.files.search import Kind

MAX_TREE_NODES = 100_000
"""Different paths of one tree, with the directories that are only named by what is in them."""
MAX_TREE_NAMES = 8 * 1024 * 1024
"""Bytes of all names of one tree together."""

_Node = dict[bytes, "_Node | Kind"]


class Layout:
    """What a tree has so far: nothing below what is not a directory, so nothing through a link.

    It is kept as a tree of components, so that a deep name takes memory for its components only.
    """

    def __init__(self, *, nodes: int = MAX_TREE_NODES, names: int = MAX_TREE_NAMES) -> None:
        self._root: _Node = {}
        self._nodes_left = nodes
        self._bytes_left = names

    def add(self, name: bytes, kind: Kind) -> bool:
        """Whether it takes the place of an earlier file or link; a directory may come twice.

        `name` is a clean one. Raises ValueError, with the reason in words, also for a directory and
        something else, and TooLarge beyond the bounds.
        """
        self._bytes_left -= len(name)
        *above, last = name.split(b"/")
        directory = self._root
        for part in above:
            found = directory.get(part)
            if found is None:
                found = self._make(directory, part)
            elif not isinstance(found, dict):
                raise ValueError("it lies below something that is not a directory")
            directory = found
        return self._place(directory, last, kind)

    def _place(self, directory: _Node, name: bytes, kind: Kind) -> bool:
        known = directory.get(name)
        if known is not None and isinstance(known, dict) != (kind is Kind.DIRECTORY):
            raise ValueError("its name comes twice")
        if known is None:
            self._count()
            directory[name] = {} if kind is Kind.DIRECTORY else kind
        return known is not None and kind is not Kind.DIRECTORY

    def _make(self, directory: _Node, name: bytes) -> _Node:
        self._count()
        made: _Node = {}
        directory[name] = made
        return made

    def _count(self) -> None:
        self._nodes_left -= 1
        if self._nodes_left < 0 or self._bytes_left < 0:
            raise TooLarge(
                f"The tree has more than {MAX_TREE_NODES:,} names, directories included, or "
                f"{MAX_TREE_NAMES:,} bytes of names.",
                hint="Take a part of it at a time.",
            )
