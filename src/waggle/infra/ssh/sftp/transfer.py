# SPDX-License-Identifier: Apache-2.0
"""Move a file's bytes over SFTP: several requests under way at once, in bounded memory.

Used by `files`. The other end may be hostile: a block counts for no more than was asked for, and
sizes are claims.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from waggle.infra.ssh.typed import SftpFile
from waggle.tasks import end

BLOCK: Final = 128 * 1024
WRITE_BLOCK: Final = 255 * 1024
"""What OpenSSH's server takes at once: fewer and larger packets cost an emulated guest less."""
IN_FLIGHT: Final = 12


async def write_all(file: SftpFile, data: bytes) -> None:
    """Write `data` from the start. Raises asyncssh.Error; safe to cancel."""

    async def one(offset: int) -> None:
        await file.write(data[offset : offset + WRITE_BLOCK], offset)

    await _each(range(0, len(data), WRITE_BLOCK), one)


async def read_range(file: SftpFile, start: int, stop: int) -> bytes:
    """Read from `start` up to `stop`, less if the file ends before."""
    blocks: dict[int, bytes] = {}

    async def one(offset: int) -> None:
        blocks[offset] = await _block(file, offset, min(BLOCK, stop - offset))

    await _each(range(start, stop, BLOCK), one)
    data = bytearray()
    for offset in sorted(blocks):
        if offset != start + len(data):
            break  # a block before was short: the file ended there
        data += blocks[offset]
    return bytes(data)


async def read_to_end(file: SftpFile, limit: int) -> bytes:
    """Read a file that does not know its size, as those of /proc; at most one byte over `limit`."""
    data = bytearray()
    while len(data) <= limit:
        more = await _block(file, len(data), min(BLOCK, limit + 1 - len(data)))
        if not more:
            break
        data += more
    return bytes(data)


async def _block(file: SftpFile, offset: int, size: int) -> bytes:
    """Exactly `size` bytes unless the file ends before."""
    data = b""
    while len(data) < size:
        piece = await file.read(size - len(data), offset + len(data))
        if not piece:
            break
        data += piece
    return data[:size]


async def _each(offsets: range, work: Callable[[int], Awaitable[None]]) -> None:
    """Do the work for each offset, IN_FLIGHT at a time; the first failure ends all."""
    rest = iter(offsets)
    workers = [
        asyncio.ensure_future(_work_off(rest, work)) for _ in range(min(IN_FLIGHT, len(offsets)))
    ]
    try:
        await asyncio.gather(*workers)
    finally:
        await end(*workers)


async def _work_off(offsets: Iterator[int], work: Callable[[int], Awaitable[None]]) -> None:
    for offset in offsets:
        await work(offset)
