# SPDX-License-Identifier: Apache-2.0
"""Ranges of source files that go to one place of a disk each, joined where they lie side by side.

Called by `erofs`. `joined` is pure; `copy` has the kernel move the bytes, or share them where the
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


def pieces(extent: Extent) -> Iterator[Extent]:
    """Divide one so that progress is seen."""
    return (extent.part(at, _PIECE) for at in range(0, extent.size, _PIECE))


def copy(extent: Extent, sources: Sequence[int], out: int) -> None:
    """Copy between descriptors. Raises OSError, also when the source is too short."""
    source = sources[extent.source]
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
