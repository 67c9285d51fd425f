# SPDX-License-Identifier: Apache-2.0
"""Ranges of source files that go to one place of a disk each, joined where they lie side by side.

Called by `erofs`. `joined` is pure; `copied` has the kernel move the bytes, or share them where the
file system can, which takes pieces that are as large as possible and aligned to blocks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BLOCK = 4096
_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """`size` bytes from `start` of a source on, which go to `target` of the disk."""

    source: int
    start: int
    size: int
    target: int

    def part(self, at: int, size: int) -> Extent:
        """Return at most `size` bytes of it from `at` on."""
        left = min(size, self.size - at)
        return Extent(self.source, self.start + at, left, self.target + at)


def joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join those that follow each other on both sides with nothing but padding to a block between.

    The padding is copied, too: it is zeros.
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
    """Copy between descriptors; yield now and then the place of `out` that is next.

    What was copied is on its way to the disk already, which shortens the flush at the end. Raises
    OSError, also when a source is too short.
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
    """Have the kernel begin to write a range: that is what this advice does to unwritten pages."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(out, start, size, os.POSIX_FADV_DONTNEED)


def _copy(extent: Extent, source: int, out: int) -> None:
    done = _copy_in_kernel(extent, source, out)
    if done < extent.size:
        rest = extent.part(done, extent.size)
        os.pwrite(out, read(source, rest.start, rest.size), rest.target)


def read(source: int, start: int, count: int) -> bytes:
    """Read exactly so many bytes. Raises OSError."""
    data = os.pread(source, count, start)
    if len(data) != count:
        raise OSError("the data of a layer is too short")
    return data


def _copy_in_kernel(extent: Extent, source: int, out: int) -> int:
    """Copy or clone without passing the bytes through this process; return how many it were."""
    done = 0
    with contextlib.suppress(OSError):
        while done < extent.size:
            left = extent.part(done, extent.size)
            copied = os.copy_file_range(source, out, left.size, left.start, left.target)
            if not copied:
                break
            done += copied
    return done
