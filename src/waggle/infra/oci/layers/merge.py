# SPDX-License-Identifier: Apache-2.0
"""Merges layers into one tree, as a pure function of their entries.

Called by `flatten` and by the image builder. Applies whiteouts, opaque directories, replacements
and hard links as the image specification says; where it is silent, as umoci does. A parent that is
a symlink is followed inside the image's root, as a guest would. No path here is a host path.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import Limits, Path, clean_path, shown
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.layers.layers import check_metadata, weight

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_MAX_LINKS = 40


@dataclass(slots=True, eq=False)
class Node:
    """A file of the merged tree. Two names of one object are hard links to one file."""

    mode: int
    """Type and permission bits, as in `stat`."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    content: tuple[int, int] = (0, 0)
    """The layer that has the bytes, and where they start in its data file."""
    children: dict[bytes, Node] = field(default_factory=dict[bytes, "Node"])

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symlink."""
        return stat.S_ISLNK(self.mode)


def merge(layers: Iterable[Iterable[Entry]], limits: Limits) -> Node:
    """Apply the layers, lowest first; return the root. Raises ImageCorrupt."""
    merger = _Merger(limits)
    for number, entries in enumerate(layers):
        merger.apply(number, entries)
    return merger.root


def walk(root: Node) -> Iterator[tuple[Path, Node]]:
    """Yield every path and node, parents first, siblings sorted by bytes."""
    stack: list[tuple[Path, Node]] = [((), root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        names = sorted(node.children, reverse=True)
        stack.extend(((*path, name), node.children[name]) for name in names)


class _Merger:
    def __init__(self, limits: Limits) -> None:
        self.root = Node(stat.S_IFDIR | 0o755)
        self._limits = limits
        self._layer = 0
        self._count = self._metadata = self._steps = 0
        self._touched: dict[Node, set[bytes]] = {}
        """The names in every directory that the current layer added, or added something below."""

    def apply(self, number: int, entries: Iterable[Entry]) -> None:
        self._layer = number
        self._touched = {}
        for entry in entries:
            self._count += 1
            if self._count > self._limits.entries:
                raise ImageCorrupt(f"The image has more than {self._limits.entries} entries.")
            self._metadata += weight(entry)
            check_metadata(self._metadata, self._limits)
            if not entry.path:
                self._update_root(entry)
            elif entry.path[-1].startswith(_WHITEOUT):
                self._white_out(entry.path)
            else:
                self._add(entry)

    def _update_root(self, entry: Entry) -> None:
        if not stat.S_ISDIR(entry.mode):
            raise ImageCorrupt("A layer replaces the image's root by something else.")
        _describe(self.root, entry)

    def _white_out(self, path: Path) -> None:
        parent = self._find(path[:-1])
        if parent is None or not parent.is_dir:
            return
        if path[-1] == _OPAQUE:
            self._clear(parent)
            return
        name = path[-1].removeprefix(_WHITEOUT)
        if name in {b"", b".", b".."}:
            raise ImageCorrupt(f"A layer has a malformed whiteout: {shown(path)}.")
        if name not in self._touched.get(parent, ()):
            parent.children.pop(name, None)
        elif name in parent.children:
            self._clear(parent.children[name])

    def _clear(self, directory: Node) -> None:
        """Remove everything below that this layer did not add."""
        stack = [directory]
        while stack:
            node = stack.pop()
            fresh = self._touched.get(node, set[bytes]())
            node.children = {n: child for n, child in node.children.items() if n in fresh}
            stack.extend(node.children.values())

    def _add(self, entry: Entry) -> None:
        parent = self._parent(entry.path)
        name = entry.path[-1]
        old = parent.children.get(name)
        if entry.is_hard_link:
            node = self._link_target(entry)  # keeps the metadata of its own entry
        elif old is not None and old.is_dir and stat.S_ISDIR(entry.mode):
            node = old
            _describe(node, entry)
        else:
            node = Node(entry.mode)
            _describe(node, entry)
            node.link, node.device, node.size = entry.link, entry.device, entry.size
            node.content = (self._layer, entry.offset)
        parent.children[name] = node

    def _link_target(self, entry: Entry) -> Node:
        target = clean_path(entry.link, self._limits)
        parent = self._find(target[:-1]) if target else None
        node = parent.children.get(target[-1]) if parent is not None else None
        if node is None:
            raise ImageCorrupt(
                f"The hard link {shown(entry.path)} points to {shown(target)}, which is missing."
            )
        if node.is_dir:
            raise ImageCorrupt(f"The hard link {shown(entry.path)} points to a directory.")
        return node

    def _find(self, path: Path) -> Node | None:
        """Return the node at `path`, or None; symlinks are followed inside the root."""
        trail = self._resolve(path, make=False)
        return trail[-1][1] if trail else None

    def _parent(self, path: Path) -> Node:
        """Return the directory of `path`, created if necessary; mark the way there as touched."""
        trail = self._resolve(path[:-1], make=True)
        if not trail or not trail[-1][1].is_dir:
            raise ImageCorrupt(f"A layer puts {shown(path)} below something that is no directory.")
        for (_, above), (name, _) in itertools.pairwise(trail):
            self._touched.setdefault(above, set()).add(name)
        self._touched.setdefault(trail[-1][1], set()).add(path[-1])
        return trail[-1][1]

    def _resolve(self, path: Path, *, make: bool) -> list[tuple[bytes, Node]]:
        """Walk down from the root; return names and nodes passed, or nothing if one is missing."""
        todo = list(reversed(path))
        trail = [(b"", self.root)]
        links = 0
        while todo:
            self._steps += 1
            if self._steps > self._limits.steps:
                raise ImageCorrupt("Its symlinks and deep names take too long to follow.")
            name = todo.pop()
            if name in {b"", b".", b".."}:
                trail = trail[:-1] if name == b".." and len(trail) > 1 else trail
                continue
            found = self._step(trail[-1][1], name, make=make)
            if found is None:
                return []
            if not found.is_link:
                trail.append((name, found))
                if len(trail) > self._limits.depth + 1:
                    raise ImageCorrupt(f"A layer nests directories too deeply: {shown(path)}.")
                continue
            links += 1
            if links > _MAX_LINKS:
                raise ImageCorrupt(f"A layer has a name through a loop of symlinks: {shown(path)}.")
            trail = trail[:1] if found.link.startswith(b"/") else trail
            todo.extend(reversed(found.link.split(b"/")))
        return trail

    def _step(self, here: Node, name: bytes, *, make: bool) -> Node | None:
        found = here.children.get(name)
        if found is not None or not make or not here.is_dir:
            return found
        if len(name) > self._limits.name_bytes:
            raise ImageCorrupt("A layer has a symlink to a name that is too long.")
        made = here.children[name] = Node(stat.S_IFDIR | 0o755)
        return made


def _describe(node: Node, entry: Entry) -> None:
    """Copy owner, mode, time and attributes of an entry to a node; its type stays.

    A symlink's mode is 0777: Linux has no other, whatever an archive says.
    """
    node.mode = stat.S_IFMT(node.mode) | (0o777 if node.is_link else stat.S_IMODE(entry.mode))
    node.uid, node.gid = entry.uid, entry.gid
    node.mtime_ns = entry.mtime_ns
    node.xattrs = entry.xattrs
