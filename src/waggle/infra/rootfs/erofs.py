# SPDX-License-Identifier: Apache-2.0
"""A writer of uncompressed EROFS images that needs no mount, root or helper program.

Called by `disk`. The tree is any `TreeNode`, so this module knows no OCI. Nothing is unpacked to a
host directory, so owners, device nodes and attributes survive for any user, and a hostile name
reaches no host path. The image: superblock, then all inodes (extended, with attributes and small
contents inline, so one read gets both), then the blocks of large directories, then those of larger
files in the order of their sources, so adjacent contents are copied (or shared, where the file
system can) in one piece.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from waggle.infra.rootfs.erofs_format import (
    BLOCK,
    FIRST_INODE,
    FLAT_INLINE,
    FLAT_PLAIN,
    INODE,
    SLOT,
    Extent,
    copied,
    device_number,
    directory_blocks,
    directory_size,
    inode_bytes,
    joined,
    read,
    superblock,
    xattr_bytes,
)


class TreeNode(Protocol):
    """A file of the tree; an object with two names is a hard link. See `oci.layers.merge.Node`."""

    @property
    def mode(self) -> int:
        """Type and permission bits, as in `stat`."""
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
        """The index of the file that holds the contents, and their offset in it."""
        ...

    @property
    def children(self) -> Mapping[bytes, Self]:
        """The entries of a directory by name; empty for anything else."""
        ...


Advance = Callable[[float, str], None]

_INLINE_FILE = 2048


@dataclass(slots=True, eq=False)
class _Inode:
    """A node with its place in the image."""

    node: TreeNode
    parent: _Inode | None
    number: int
    xattrs: bytes
    size: int
    links: int = 1
    offset: int = 0
    inline: bool = False
    block: int = 0

    @property
    def nid(self) -> int:
        return self.offset // SLOT


def write_erofs(
    root: TreeNode, files: Sequence[Path], target: Path, uuid: bytes, progress: Advance
) -> None:
    """Write the tree at `root` to the new file `target` and flush it to the disk.

    `files[n]` holds the contents of nodes whose `content` is (n, offset); contents that start at a
    multiple of 4 KiB must be followed by zeros up to the next. The result depends only on the
    arguments. `uuid` has 16 bytes. Blocks the thread; `progress` may raise to stop. After a failure
    the caller removes `target`. Raises OSError; ValueError when a file has more attributes than fit
    beside its inode.
    """
    inodes, by_node = _collect(root)
    large, blocks = _place(inodes)
    contents = [inode for inode in large if stat.S_ISREG(inode.node.mode)]
    with contextlib.ExitStack() as stack, target.open("xb") as out:
        sources = [stack.enter_context(file.open("rb")).fileno() for file in files]
        out.write(superblock(inodes[0].nid, len(inodes), blocks, uuid))
        at = FIRST_INODE
        for inode in inodes:
            at += out.write(bytes(inode.offset - at) + _inode(inode, sources, by_node))
        for inode in large[: len(large) - len(contents)]:
            out.seek(inode.block * BLOCK)
            out.write(_content(inode, sources, by_node))
        out.flush()
        for done in copied(joined(map(_extent, contents)), sources, out.fileno()):
            progress(done / (blocks * BLOCK), "writing the root disk")
        os.ftruncate(out.fileno(), blocks * BLOCK)
        os.fsync(out.fileno())


def _collect(root: TreeNode) -> tuple[list[_Inode], dict[int, _Inode]]:
    """List the distinct nodes, parents first, names in byte order; count their links."""
    inodes: list[_Inode] = []
    by_node: dict[int, _Inode] = {}
    stack: list[tuple[TreeNode, _Inode | None]] = [(root, None)]
    while stack:
        node, parent = stack.pop()
        known = by_node.get(id(node))
        if known:
            known.links += 1
            continue
        inode = _Inode(node, parent, len(inodes) + 1, xattr_bytes(node.xattrs), _size(node))
        by_node[id(node)] = inode
        inodes.append(inode)
        if stat.S_ISDIR(node.mode):
            inode.links = 2
            if parent:
                parent.links += 1
            stack.extend((node.children[n], inode) for n in sorted(node.children, reverse=True))
    return inodes, by_node


def _size(node: TreeNode) -> int:
    match stat.S_IFMT(node.mode):
        case stat.S_IFDIR:
            return directory_size(_names(node))
        case stat.S_IFLNK:
            return len(node.link)
        case stat.S_IFREG:
            return node.size
        case _:
            return 0


def _names(node: TreeNode) -> list[bytes]:
    return sorted([b".", b"..", *node.children])


def _place(inodes: Sequence[_Inode]) -> tuple[list[_Inode], int]:
    """Give inodes their offsets and large contents their blocks; return these and the block count.

    Large contents are in the order of their blocks, those of regular files last. An inode with its
    attributes and inline contents never crosses a block.
    """
    at = FIRST_INODE
    for inode in inodes:
        need = INODE + len(inode.xattrs)
        if need > BLOCK:
            raise ValueError("a file has too many extended attributes")
        limit = _INLINE_FILE if stat.S_ISREG(inode.node.mode) else BLOCK
        inode.inline = 0 < inode.size <= min(limit, BLOCK - need)
        need += inode.size if inode.inline else 0
        if at % BLOCK + need > BLOCK:
            at += -at % BLOCK
        inode.offset = at
        at += need + -need % INODE
    block = -(-at // BLOCK)
    large = [inode for inode in inodes if inode.size and not inode.inline]
    large.sort(key=lambda inode: (stat.S_ISREG(inode.node.mode), inode.node.content))
    for inode in large:
        inode.block = block
        block += -(-inode.size // BLOCK)
    return large, block


def _extent(inode: _Inode) -> Extent:
    source, start = inode.node.content
    return Extent(source, start, inode.size, inode.block * BLOCK)


def _inode(inode: _Inode, sources: Sequence[int], by_node: Mapping[int, _Inode]) -> bytes:
    """Return the inode with its attributes, and its contents if they are inline."""
    node = inode.node
    is_device = stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode)
    found = inode_bytes(
        layout=FLAT_INLINE if inode.inline else FLAT_PLAIN,
        mode=node.mode,
        size=inode.size,
        data=device_number(*node.device) if is_device else inode.block,
        number=inode.number,
        owner=(node.uid, node.gid),
        mtime_ns=node.mtime_ns,
        links_and_xattrs=(inode.links, len(inode.xattrs)),
    )
    inline = _content(inode, sources, by_node) if inode.inline else b""
    return found + inode.xattrs + inline


def _content(inode: _Inode, sources: Sequence[int], by_node: Mapping[int, _Inode]) -> bytes:
    node = inode.node
    if stat.S_ISLNK(node.mode):
        return node.link
    if stat.S_ISDIR(node.mode):
        return directory_blocks(_directory(inode, by_node))
    source, start = node.content
    return read(sources[source], start, inode.size)


def _directory(inode: _Inode, by_node: Mapping[int, _Inode]) -> list[tuple[bytes, int, int]]:
    above = inode.parent or inode
    own = {b".": inode, b"..": above}
    found = ((n, own.get(n) or by_node[id(inode.node.children[n])]) for n in _names(inode.node))
    return [(name, entry.nid, entry.node.mode) for name, entry in found]
