# SPDX-License-Identifier: Apache-2.0
"""Copies of sparse files: disks and the memory of machines, which are mostly holes.

Blocks. Knows no machine, image or VMM.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

_FICLONE = 0x40049409
_CHUNK, _APART, _PIECE = 1 << 20, 64 << 10, 16 << 10
_ZEROS = bytes(_CHUNK)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""See fallocate(2)."""
_fallocate: Final = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class BecameShorter(OSError):
    """Somebody has cut off a file that is being copied."""


def clone(source: Path, target: Path) -> None:
    """Copy a sparse file: by reference where the file system can, otherwise only its data."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb") as origin, os.fdopen(os.open(target, flags, 0o600), "wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, origin.fileno())
        except OSError:
            copy_data(origin.fileno(), copy.fileno())


def copy_data(source: int, target: int, size: int | None = None, *, move: bool = False) -> None:
    """Copy data that is not zero and leave holes elsewhere; see lseek(2). Raises OSError.

    `target` must be empty. A file in memory that was read completely has no holes any more. Of a
    file that somebody else may change meanwhile, give the `size` that was checked: no more is
    copied, and the target has it, too.

    With `move`, what was copied is freed in `source`, MiB by MiB, so that both together hardly take
    more than one of them. It must be open for writing, and nobody may need what is in it; after an
    error some of it is gone.
    """
    size = os.fstat(source).st_size if size is None else size
    os.ftruncate(target, size)
    with _moving(source, move=move) as freeing:
        _copy_range(source, target, 0, size, freeing)


def copy_over(source: int, target: int) -> None:
    """Copy data that is not zero into a file that is as large and has zeros. Raises OSError.

    Unlike `copy_data` it keeps the room that the target has taken.
    """
    _copy_range(source, target, 0, os.fstat(source).st_size)


def copy_changed(base: int, changes: int, target: int, size: int, *, move: bool = False) -> None:
    """Copy as `copy_data` does: of `changes` where that has data, of `base` elsewhere.

    `changes` is a file in memory, whose pages are data once they were written, also with zeros.
    `base` may be shorter. With `move`, `changes` is freed meanwhile.
    """
    os.ftruncate(target, size)
    length = min(os.fstat(base).st_size, size)
    at = 0
    with _moving(changes, move=move) as freeing:
        while at < size:
            start = min(_next_data(changes, at, size), size)
            _copy_range(base, target, at, min(start, length))
            at = _end_of_data(changes, start, size, mmap.PAGESIZE)
            _copy_data_at(changes, target, start, at, freeing)


def apply_changes(
    changes: int, target: int, size: int, *, move: bool = False
) -> list[tuple[int, int]]:
    """Write what `changes` has into a file of the same size that has the rest. Raises OSError.

    As `copy_changed`, but in place: what became zero is a hole afterwards, and after an error only
    some changes are there. Returns the ranges that were written, begin and end; between two of them
    lie more than 64 KiB, so that there are few.
    """
    ranges: list[tuple[int, int]] = []
    at = 0
    with _moving(changes, move=move) as freeing:
        while (start := _next_data(changes, at, size)) < size:
            at = _end_of_data(changes, start, size, mmap.PAGESIZE)
            _copy_data_at(changes, target, start, at, freeing, is_new=False)
            if ranges and start - ranges[-1][1] <= _APART:
                start, _ = ranges.pop()
            ranges.append((start, at))
    return ranges


class _Freeing:
    """Frees what was copied of a file, a MiB at a time: each call costs what some pages do."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._begin, self._end, self._held = 0, 0, 0

    def copied(self, start: int, length: int) -> None:
        """Note that data were copied, after those of before, and free them with those."""
        self._end = start + length
        self._held += length
        if self._held >= _CHUNK:
            self.free()

    def free(self) -> None:
        """Free all that was copied."""
        if self._held:
            _free(self._source, self._begin, self._end - self._begin)
        self._begin, self._held = self._end, 0


@contextlib.contextmanager
def _moving(source: int, *, move: bool) -> Generator[_Freeing | None]:
    """With `move`, free what the block copies."""
    freeing = _Freeing(source) if move else None
    yield freeing
    if freeing is not None:
        freeing.free()


def _copy_range(
    source: int, target: int, at: int, size: int, freeing: _Freeing | None = None
) -> None:
    """Copy the data between offset `at` and `size` into a target that has zeros there."""
    end = at
    while end < size:
        start = _next_data(source, end, size)
        end = _end_of_data(source, start, size, _PIECE)
        _copy_data_at(source, target, start, end, freeing)


def _copy_data_at(
    source: int,
    target: int,
    start: int,
    end: int,
    freeing: _Freeing | None,
    *,
    is_new: bool = True,
) -> None:
    """Copy what lies between two offsets; a target that `is_new` has zeros there."""
    while start < end:
        data = os.pread(source, min(end - start, _CHUNK), start)
        if not data:  # somebody else may write to it
            raise BecameShorter(errno.EIO, "the file became shorter while it was copied")
        done = 0
        for begin, length in _written(data):
            if not is_new and begin > done:
                _empty(target, start + done, begin - done)
            done = begin + length
            write_at(target, memoryview(data)[begin:done], start + begin)
        if not is_new and done < len(data):
            _empty(target, start + done, len(data) - done)
        if freeing is not None:
            freeing.copied(start, len(data))
        start += len(data)


def _next_data(source: int, at: int, size: int) -> int:
    """Return where there is data after an offset; `size` if there is none."""
    try:
        return os.lseek(source, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def _end_of_data(source: int, start: int, size: int, least: int) -> int:
    """Return where data ends, or `least` bytes after its start: it may be gone by now."""
    hole = os.lseek(source, start, os.SEEK_HOLE) if start < size else size
    return min(max(hole, start + least), size)


def _written(data: bytes) -> Generator[tuple[int, int]]:
    """Yield offset and length of the runs of a chunk that are not zero, in whole pieces."""
    if data == _ZEROS[: len(data)]:
        return
    begin = None
    for at in range(0, len(data), _PIECE):
        is_zero = data.startswith(_ZEROS[: min(_PIECE, len(data) - at)], at)
        if is_zero and begin is not None:
            yield begin, at - begin
            begin = None
        elif not is_zero and begin is None:
            begin = at
    if begin is not None:
        yield begin, len(data) - begin


def write_at(target: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all data: a nearly full disk takes only a part at first. Raises OSError."""
    left = memoryview(data)
    while left:
        size = os.pwrite(target, left, offset)
        left, offset = left[size:], offset + size


def _empty(descriptor: int, start: int, length: int) -> None:
    """Make a hole, or write zeros where the file system has none."""
    try:
        _free(descriptor, start, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        write_at(descriptor, _ZEROS[:length], start)


def _free(descriptor: int, start: int, length: int) -> None:
    if _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
