# SPDX-License-Identifier: Apache-2.0
"""Files of a guest in parts, a few of which are under way at the same time.

Used by `client`. The guest may say anything of a file's size and parts: no loop goes on without
bytes that are asked for. Knows neither the channel nor a policy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from typing import Final, Protocol, TypeVar

from waggle.infra.guest.answers import AgentBusy, lost
from waggle.infra.guest.protocol.files import FileData, Written
from waggle.tasks import end

IN_FLIGHT: Final = 4
"""Parts under way: more do not make it faster, and fewer leave room for other requests."""
TRIES: Final = 100
"""Of one part, while the agent is busy."""
_PAUSE: Final = 0.1
T = TypeVar("T")


class ReadPart(Protocol):
    """Reads a part of a file; see `AgentClient.read_part`."""

    def __call__(self, path: str, offset: int, length: int | None = None) -> Awaitable[FileData]:
        """Return the part."""
        ...


WritePart = Callable[[bytes, int | None, int | None], Awaitable[Written]]
"""Writes data at an offset, or a new file with a mode."""


async def read_parts(read: ReadPart, path: str, offset: int, most: int) -> AsyncGenerator[FileData]:
    """Yield the parts of a file in order, from `offset` to the size that it has at first.

    None has more than `most` bytes.
    """
    first = await _checked(read, path, offset, None, most)
    yield first
    step = len(first.data)
    if first.end:
        return
    under_way: deque[asyncio.Task[FileData]] = deque()
    offset += step
    try:
        while under_way or offset < first.size:
            while offset < first.size and len(under_way) < IN_FLIGHT:
                length = min(step, first.size - offset)
                whole = _whole(read, path, offset, length)
                under_way.append(asyncio.create_task(whole))
                offset += length
            yield await under_way[0]
            under_way.popleft()
    finally:
        await end(*under_way)


async def _whole(read: ReadPart, path: str, offset: int, length: int) -> FileData:
    """Read until all of it is there, or the end of the file."""
    part = await _checked(read, path, offset, length, length)
    data = part.data
    while len(data) < length and not part.end:
        left = length - len(data)
        part = await _checked(read, path, offset + len(data), left, left)
        data += part.data
    return part.model_copy(update={"data": data})


async def _checked(
    read: ReadPart, path: str, offset: int, length: int | None, most: int
) -> FileData:
    part = await _patiently(lambda: read(path, offset, length))
    if len(part.data) > most or not (part.data or part.end):
        raise lost("file_read", f"it sent {len(part.data):,} bytes of a part")
    return part


async def write_parts(
    write: WritePart,
    pieces: Iterable[bytes],
    mode: int | None,
    report: Callable[[int], None],
) -> None:
    """Write a new file, or all of an old one, from pieces in order."""
    left = iter(pieces)
    first = next(left, b"")
    await _written(write, first, None, mode)
    offset = len(first)
    report(offset)
    under_way: deque[asyncio.Task[int]] = deque()
    done = offset
    try:
        for piece in left:
            under_way.append(asyncio.create_task(_written(write, piece, offset, None)))
            offset += len(piece)
            if len(under_way) == IN_FLIGHT:
                done += await under_way[0]
                under_way.popleft()
                report(done)
        while under_way:
            done += await under_way[0]
            under_way.popleft()
            report(done)
    finally:
        await end(*under_way)


async def _written(write: WritePart, data: bytes, offset: int | None, mode: int | None) -> int:
    """Write until all is there: why something was not, as on a full disk, the next answer says."""
    done = await _piece(write, data, offset, mode)
    while done < len(data):
        done += await _piece(write, data[done:], (offset or 0) + done, None)
    return done


async def _piece(write: WritePart, data: bytes, offset: int | None, mode: int | None) -> int:
    answer = await _patiently(lambda: write(data, offset, mode))
    if answer.written > len(data) or (data and not answer.written):
        raise lost("file_write", f"it wrote {answer.written:,} of {len(data):,} bytes")
    return answer.written


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while the agent has too much to do; a part may be asked for twice."""
    for _ in range(TRIES - 1):
        try:
            return await ask()
        except AgentBusy:
            await asyncio.sleep(_PAUSE)
    return await ask()


def pieces_of(data: bytes, size: int) -> Generator[bytes]:
    """Divide data into pieces of at most `size` bytes; no data is one piece."""
    for start in range(0, max(len(data), 1), size):
        yield data[start : start + size]
