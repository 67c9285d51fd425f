# SPDX-License-Identifier: Apache-2.0
"""Writes a tree as an uncompressed EROFS image, without mounting, root or a helper program.

Called by `disk`. The tree is any object of the shape in `tree`, so that this module knows no OCI.
Because nothing is unpacked to a host directory, owners, device nodes and attributes survive for
any user, and a hostile name has no host path to reach.

The image: superblock, then all inodes (extended, with attributes and small contents inline), then
the blocks of larger files in tree order. Small contents lie beside their inode: one read gets both.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from waggle.infra.rootfs.erofs_format import (
    BLOCK,
    FIRST_INODE,
    FLAT_INLINE,
    FLAT_PLAIN,
    INODE,
    SLOT,
    device_number,
    directory_blocks,
    directory_size,
    inode_bytes,
    superblock,
    xattr_bytes,
)
from waggle.infra.rootfs.tree import TreeNode

Advance = Callable[[float, str], None]

_INLINE_FILE = 2048
_COPY = 8 << 20


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

    `files[n]` holds the contents of nodes whose `content` is (n, offset). The result depends on
    the arguments only. `uuid` has 16 bytes. Blocks the thread; `progress` may raise to give up.
    What a failure leaves at `target` is the caller's to remove. Raises OSError; ValueError when a
    file has more attributes than fit beside its inode.
    """
    inodes, by_node = _collect(root)
    blocks = _place(inodes)
    with contextlib.ExitStack() as stack, target.open("xb") as out:
        sources = [stack.enter_context(file.open("rb")).fileno() for file in files]
        out.write(superblock(inodes[0].nid, len(inodes), blocks, uuid))
        for inode in inodes:
            _write_inode(inode, out, sources, by_node)
        out.flush()
        for inode in inodes:
            if inode.block:
                _write_blocks(inode, out.fileno(), sources, by_node)
                progress(inode.block / blocks, "writing the root disk")
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


def _place(inodes: Sequence[_Inode]) -> int:
    """Give every inode its offset and large contents their blocks; return the blocks in all.

    An inode never crosses a block, neither do its attributes or what is inline.
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
    for inode in inodes:
        if inode.size and not inode.inline:
            inode.block = block
            block += -(-inode.size // BLOCK)
    return block


def _write_inode(
    inode: _Inode, out: BinaryIO, sources: Sequence[int], by_node: Mapping[int, _Inode]
) -> None:
    node = inode.node
    is_device = stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode)
    out.write(bytes(inode.offset - out.tell()))
    out.write(
        inode_bytes(
            layout=FLAT_INLINE if inode.inline else FLAT_PLAIN,
            mode=node.mode,
            size=inode.size,
            data=device_number(*node.device) if is_device else inode.block,
            number=inode.number,
            owner=(node.uid, node.gid),
            mtime_ns=node.mtime_ns,
            links_and_xattrs=(inode.links, len(inode.xattrs)),
        )
    )
    out.write(inode.xattrs)
    if inode.inline:
        out.write(b"".join(_content(inode, sources, by_node)))


def _content(
    inode: _Inode, sources: Sequence[int], by_node: Mapping[int, _Inode]
) -> Iterator[bytes]:
    node = inode.node
    if stat.S_ISLNK(node.mode):
        yield node.link
    elif stat.S_ISDIR(node.mode):
        yield directory_blocks(_directory(inode, by_node))
    else:
        source, start = node.content
        for at in range(0, inode.size, _COPY):
            count = min(_COPY, inode.size - at)
            data = os.pread(sources[source], count, start + at)
            if len(data) != count:
                raise OSError(f"the data of layer {source} is too short")
            yield data


def _directory(inode: _Inode, by_node: Mapping[int, _Inode]) -> list[tuple[bytes, int, int]]:
    above = inode.parent or inode
    own = {b".": inode, b"..": above}
    found = ((n, own.get(n) or by_node[id(inode.node.children[n])]) for n in _names(inode.node))
    return [(name, entry.nid, entry.node.mode) for name, entry in found]


def _write_blocks(
    inode: _Inode, out: int, sources: Sequence[int], by_node: Mapping[int, _Inode]
) -> None:
    at = inode.block * BLOCK
    if stat.S_ISREG(inode.node.mode):
        source, start = inode.node.content
        copied = _copy_in_kernel(sources[source], out, inode.size, start, at)
        if copied == inode.size:
            return
    for data in _content(inode, sources, by_node):
        os.pwrite(out, data, at)
        at += len(data)


def _copy_in_kernel(source: int, out: int, count: int, start: int, at: int) -> int:
    """Copy or clone a range without passing it through this process; return the bytes copied."""
    done = 0
    with contextlib.suppress(OSError):
        while done < count:
            copied = os.copy_file_range(source, out, count - done, start + done, at + done)
            if not copied:
                break
            done += copied
    return done
