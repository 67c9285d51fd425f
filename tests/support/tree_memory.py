# SPDX-License-Identifier: Apache-2.0
"""A program that unpacks a tree of the largest allowed size, and attacks, as a server does.

Prints its memory in MiB at the beginning, at the peak and at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
from collections.abc import Iterator

from tests.support.strain import forget_peak, memory

from waggle.allocator import trim
from waggle.domain.errors import WaggleError
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import TreeEntry
from waggle.infra.archive.trees import END, content, header, read_archive
from waggle.service.sharing import in_thread


def _archives() -> Iterator[bytes]:
    """Yield a tree of 60 MiB and 6,000 files, and one with very many long names."""
    noise = random.Random(0).randbytes(1_000)
    files = [TreeEntry(Kind.FILE, b"d%d/%d" % (n % 99, n), data=noise * 10) for n in range(6_000)]
    deep = [TreeEntry(Kind.FILE, b"%x" % n + b"/d" * 97) for n in range(19_000)]
    for entries in (files, deep):
        blocks = (header(entry.name, entry) + b"".join(content(entry)) for entry in entries)
        yield gzip.compress(b"".join(blocks) + END, 1)


async def _take_in(archive: bytes) -> None:
    with contextlib.suppress(WaggleError):
        await in_thread(lambda check: read_archive(archive, check))


async def _main() -> None:
    archives = list(_archives())
    trim()
    forget_peak()
    before = memory("VmRSS")
    for _ in range(3):
        for archive in archives:
            await _take_in(archive)
            await asyncio.to_thread(trim)
    figures = (before, memory("VmHWM"), memory("VmRSS"))
    print(*(figure >> 20 for figure in figures))  # noqa: T201 (its purpose)


if __name__ == "__main__":
    asyncio.run(_main())
