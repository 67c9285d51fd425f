# SPDX-License-Identifier: Apache-2.0
"""Archives, and records of packed trees, that are made to take a server's time and memory. Pure."""

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
"""The least record: something that was left out."""


def deep_archive() -> bytes:
    """865 kB, of which a tree of names would take 1.3 GB."""
    return gzip.compress(b"".join(header(each.name, each) for each in DEEP) + END, 1)


def deep_records() -> bytes:
    """The same names as a guest's packed tree."""
    return b"".join(map(encode, DEEP))


def zip_of_many_entries() -> bytes:
    """200,000 of them in 9 MiB: zipfile would make 300 MiB of objects."""
    directory = struct.pack("<4s42x", b"PK\1\2") * 200_000
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0, 0, len(directory), 0, 0)
    return b"PK\3\4" + directory + end


def zip_of_long_extra_fields() -> bytes:
    """Python's own reader would take 16 s for these 10 MiB."""
    entry = struct.pack("<4s26xH14x", b"PK\1\2", 65_532) + struct.pack("<HH", 9, 0) * 16_383
    directory = entry * 150
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0, 0, len(directory), 0, 0)
    return b"PK\3\4" + directory + end


def packed_window(window: int) -> bytes:
    """32 kB, for whose 1 GiB of zeros zstd looks back so many bytes."""
    name = header(b"zeros", TreeEntry(Kind.FILE, b"zeros", data=bytes(8 << 20)))
    return zstandard.ZstdCompressor().compress(name) + packed_zeros(1 << 30, window)


def archive_of_headers() -> bytes:
    """A tar.gz of nothing but PAX headers, of the shortest records that there are."""
    records = b"5 a=\n" * 13_000
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", len(records)
    one = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed) as file:
        for _ in range(1_600):
            file.write(one)
    return packed.getvalue()
