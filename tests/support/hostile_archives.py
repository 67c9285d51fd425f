# SPDX-License-Identifier: Apache-2.0
"""Archives and packed trees that are meant to cost a server time and memory. Pure."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile

import zstandard
from tests.support.archives import packed_zeros

from waggle.domain.files.search import Kind
from waggle.domain.files.tree import TreeEntry, encode
from waggle.infra.archive.trees import END, header

DEEP = [TreeEntry(Kind.FILE, b"%x" % n + b"/d" * 97) for n in range(19_000)]
"""Names of 98 components each."""
TINY = b"s 0 0 0\0a\0"
"""The smallest record: a skipped entry."""


def deep_archive() -> bytes:
    """Return 865 kB whose names would take 1.3 GB as a tree."""
    return gzip.compress(b"".join(header(entry.name, entry) for entry in DEEP) + END, 1)


def deep_records() -> bytes:
    """Return the same names as a guest's packed tree."""
    return b"".join(map(encode, DEEP))


def zip_of_many_entries() -> bytes:
    """Return a zip with 200,000 entries in 9 MiB: zipfile would make 300 MiB of objects."""
    directory = struct.pack("<4s42x", b"PK\1\2") * 200_000
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0, 0, len(directory), 0, 0)
    return b"PK\3\4" + directory + end


def zip_of_long_extra_fields() -> bytes:
    """Return a zip of 10 MiB that Python's own reader would take 16 s to read."""
    entry = struct.pack("<4s26xH14x", b"PK\1\2", 65_532) + struct.pack("<HH", 9, 0) * 16_383
    directory = entry * 150
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0, 0, len(directory), 0, 0)
    return b"PK\3\4" + directory + end


def packed_window(window: int) -> bytes:
    """Return 32 kB that unpack to 1 GiB of zeros and need a zstd window of `window` bytes."""
    name = header(b"zeros", TreeEntry(Kind.FILE, b"zeros", data=bytes(8 << 20)))
    return zstandard.ZstdCompressor().compress(name) + packed_zeros(1 << 30, window)


def archive_of_headers() -> bytes:
    """Return a tar.gz that contains only PAX headers with the shortest possible records."""
    records = b"5 a=\n" * 13_000
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", len(records)
    one = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed) as file:
        for _ in range(1_600):
            file.write(one)
    return packed.getvalue()
