# SPDX-License-Identifier: Apache-2.0
"""Checksums of sparse files, which find damage: data that was flipped, cut off or mixed up.

Used by `frozen_files` and `frozen_archive`. Who may write to such a file may write to its manifest,
too, so nothing here has to withstand somebody who looks for a collision.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Generator, Iterable, Mapping
from itertools import chain, compress, islice
from pathlib import Path
from typing import Final, TypeAlias

BLOCK: Final = 1 << 16
_ZEROS: Final = bytes(BLOCK)
_MANY: Final = 64
"""Entries that are packed together: a call for each takes ten times as long."""


def _entries(count: int) -> struct.Struct:
    """Return the format of so many entries of a digest: offset and CRC-32 of a block."""
    return struct.Struct(f">{'QI' * count}")


_ENTRIES: Final = _entries(_MANY)


def nonzero_blocks(descriptor: int) -> Generator[tuple[int, bytes]]:
    """Yield offset and content of every block that is not zero, in order. Raises OSError."""
    for at in _data_blocks(descriptor, os.fstat(descriptor).st_size):
        block = os.pread(descriptor, BLOCK, at)
        if not _is_zero(block):
            yield at, block


def _data_blocks(descriptor: int, length: int) -> Generator[int]:
    """Yield the offsets of all blocks that may hold data, in order. Raises OSError."""
    at = 0
    while at < length:
        try:
            at = max(at, os.lseek(descriptor, at, os.SEEK_DATA) // BLOCK * BLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # no data after this offset
        yield at
        at += BLOCK


def _is_zero(block: bytes) -> bool:
    return block == _ZEROS[: len(block)]


Sums: TypeAlias = "array[int]"
"""The CRC-32 of every block of a file; 0 for blocks of zeros. 64 kB for a GiB."""


def block_sums(path: Path) -> Sums:
    """Read a file and return its sums. Raises OSError."""
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        sums = array("I", bytes(4 * -(-length // BLOCK)))
        for at, block in nonzero_blocks(file.fileno()):
            sums[at // BLOCK] = zlib.crc32(block)
    return sums


def sums_after(path: Path, before: Sums, changed: Iterable[tuple[int, int]]) -> Sums:
    """Return the sums of a file of which only these ranges, begin and end, have changed.

    What lies elsewhere is not read, so that damage there is not taken for what was written. Raises
    OSError.
    """
    sums = before[:]
    with path.open("rb") as file:
        for begin, end in changed:
            for at in range(begin // BLOCK * BLOCK, end, BLOCK):
                block = os.pread(file.fileno(), BLOCK, at)
                sums[at // BLOCK] = 0 if _is_zero(block) else zlib.crc32(block)
    return sums


def digest(size: int, sums: Sums) -> str:
    """Return the checksum of a file with a size and sums, independent of holes."""
    whole = hashlib.sha256(size.to_bytes(8, "big"))
    offsets = compress(range(0, len(sums) * BLOCK, BLOCK), sums)
    numbers = chain.from_iterable(zip(offsets, filter(None, sums), strict=True))
    while part := [*islice(numbers, 2 * _MANY)]:
        entries = _ENTRIES if len(part) == 2 * _MANY else _entries(len(part) // 2)
        whole.update(entries.pack(*part))
    return whole.hexdigest()


def crc32(path: Path) -> str:
    """Return the checksum of a file. Raises OSError.

    A processor without instructions for SHA-256 takes 60 times as long for that, and a pause to
    disk waits for it.
    """
    sums = block_sums(path)
    return digest(path.stat().st_size, sums)


def sha256(path: Path) -> str:
    """Return what earlier versions have written. Raises OSError."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        whole.update(os.fstat(file.fileno()).st_size.to_bytes(8, "big"))
        for at, block in nonzero_blocks(file.fileno()):
            whole.update(at.to_bytes(8, "big") + block)
    return whole.hexdigest()


KINDS: Final[Mapping[int, tuple[str, Callable[[Path], str]]]] = {
    2: ("sha256", sha256),
    3: ("crc32", crc32),
}
"""By the manifest's format: the name of its table of checksums, and how each is made."""
