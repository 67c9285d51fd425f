# SPDX-License-Identifier: Apache-2.0
"""The EROFS on-disk structures as functions from values to bytes, and the copying of contents.

Called by `erofs`. Names follow the kernel's `fs/erofs/erofs_fs.h`; all numbers are little-endian.
Only uncompressed data in 4 KiB blocks and extended (64-byte) inodes are written, which every EROFS
kernel reads. Everything is pure except `read` and `copied`. `copied` makes the kernel move the
bytes, or share them where the file system can, which needs pieces that are aligned to blocks and as
large as possible.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BLOCK = 4096
SLOT = 32
INODE = 64
FIRST_INODE = 1024 + 128
"""The first multiple of 64 after the superblock. Inode numbers count slots from the start."""

FLAT_PLAIN = 0
FLAT_INLINE = 2
_EXTENDED = 1
_MAGIC = 0xE0F5E1E2
_COMPAT_MTIME = 2
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sI44x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBx")
_XATTR_HEADER = 12
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_XATTR_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_ACLS = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}


def superblock(root: int, inodes: int, blocks: int, uuid: bytes) -> bytes:
    """Return block 0 up to the first inode: 1024 empty bytes and the superblock."""
    fields = _SUPER.pack(
        _MAGIC, 0, _COMPAT_MTIME, 12, 0, root, inodes, 0, 0, blocks, 0, 0, uuid, b"waggle", 0
    )
    return bytes(1024) + fields


def inode_bytes(
    *,
    layout: int,
    mode: int,
    size: int,
    data: int,
    number: int,
    owner: tuple[int, int],
    mtime_ns: int,
    links_and_xattrs: tuple[int, int],
) -> bytes:
    """Return an extended inode.

    `data` is a block or device number, `links_and_xattrs` a link count and the attributes' size.
    """
    links, xattrs = links_and_xattrs
    count = (xattrs - _XATTR_HEADER) // 4 + 1 if xattrs else 0
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    return _INODE.pack(
        *(_EXTENDED | layout << 1, count, mode, 0, size, data, number, *owner),
        *(seconds % (1 << 64), nanoseconds, links),
    )


def device_number(major: int, minor: int) -> int:
    """Encode a device as the kernel's `new_encode_dev` does."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def xattr_bytes(xattrs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the inline attribute area, empty without attributes.

    Names of unknown namespaces are omitted: no Linux file system could hold them either.
    """
    entries = b"".join(_xattr(name, value) for name, value in xattrs)
    return bytes(_XATTR_HEADER) + entries if entries else b""


def _xattr(name: bytes, value: bytes) -> bytes:
    index, rest = _ACLS.get(name, 0), b""
    for prefix, number in _XATTR_PREFIXES:
        if name.startswith(prefix):
            index, rest = number, name.removeprefix(prefix)
    if not index or len(rest) > 255 or len(value) > 0xFFFF or (index not in {2, 3} and not rest):
        return b""
    entry = struct.pack("<BBH", len(rest), index, len(value)) + rest + value
    return entry + bytes(-len(entry) % 4)


def directory_size(names: Sequence[bytes]) -> int:
    """Return the size of a directory's data; `names` are sorted and include `.` and `..`."""
    chunks = list(_chunks(names))
    last = sum(_DIRENT.size + len(name) for name in chunks[-1])
    return (len(chunks) - 1) * BLOCK + last


def directory_blocks(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """Return a directory's data from sorted (name, inode number, mode)."""
    by_name = {name: (nid, mode) for name, nid, mode in entries}
    blocks: list[bytes] = []
    for chunk in _chunks([name for name, _, _ in entries]):
        at = _DIRENT.size * len(chunk)
        table: list[bytes] = []
        for name in chunk:
            nid, mode = by_name[name]
            table.append(_DIRENT.pack(nid, at, _FILE_TYPES[stat.S_IFMT(mode)]))
            at += len(name)
        blocks.append(b"".join(table) + b"".join(chunk))
    padded = [block + bytes(BLOCK - len(block)) for block in blocks[:-1]]
    return b"".join(padded) + blocks[-1]


def _chunks(names: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Divide names into parts that fit a block with their table."""
    chunk: list[bytes] = []
    used = 0
    for name in names:
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            yield chunk
            chunk, used = [], 0
        chunk.append(name)
        used += need
    yield chunk


_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of `size` bytes at `start` of a source, copied to `target` of the disk."""

    source: int
    start: int
    size: int
    target: int

    def part(self, at: int, size: int) -> Extent:
        """Return the part of at most `size` bytes that starts at `at`."""
        left = min(size, self.size - at)
        return Extent(self.source, self.start + at, left, self.target + at)


def joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join extents that are adjacent in source and target except for padding to a block.

    The padding is copied, too: it is zeros. Pure.
    """
    last: Extent | None = None
    for extent in extents:
        if last is None:
            last = extent
        elif _follows(last, extent):
            size = extent.start + extent.size - last.start
            last = Extent(last.source, last.start, size, last.target)
        else:
            yield last
            last = extent
    if last is not None:
        yield last


def _follows(last: Extent, extent: Extent) -> bool:
    size = last.size + -last.size % BLOCK
    return (
        last.start % BLOCK == 0
        and last.source == extent.source
        and last.start + size == extent.start
        and last.target + size == extent.target
    )


def copied(extents: Iterable[Extent], sources: Sequence[int], out: int) -> Iterator[int]:
    """Copy between descriptors; yield the next offset of `out` from time to time.

    Starts to write copied data to the disk at once, which shortens the final flush. Raises OSError,
    also when a source is too short.
    """
    begun = None
    for extent in extents:
        for at in range(0, extent.size, _PIECE):
            piece = extent.part(at, _PIECE)
            begun = piece.target if begun is None else begun
            _copy(piece, sources[piece.source], out)
            end = piece.target + piece.size
            if end - begun >= _PIECE:
                _begin_to_write(out, begun, end - begun)
                begun = None
            yield end


def _begin_to_write(out: int, start: int, size: int) -> None:
    """Make the kernel start to write a range, which this advice does with dirty pages."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(out, start, size, os.POSIX_FADV_DONTNEED)


def _copy(extent: Extent, source: int, out: int) -> None:
    done = _copy_in_kernel(extent, source, out)
    if done < extent.size:
        rest = extent.part(done, extent.size)
        os.pwrite(out, read(source, rest.start, rest.size), rest.target)


def read(source: int, start: int, count: int) -> bytes:
    """Read exactly `count` bytes. Raises OSError."""
    data = os.pread(source, count, start)
    if len(data) != count:
        raise OSError("the data of a layer is too short")
    return data


def _copy_in_kernel(extent: Extent, source: int, out: int) -> int:
    """Copy or clone in the kernel, not through this process; return the number of bytes."""
    done = 0
    with contextlib.suppress(OSError):
        while done < extent.size:
            left = extent.part(done, extent.size)
            copied = os.copy_file_range(source, out, left.size, left.start, left.target)
            if not copied:
                break
            done += copied
    return done
