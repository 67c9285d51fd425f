# SPDX-License-Identifier: Apache-2.0
"""A frozen machine's directory as one file: a tar of its manifest and data, compressed with zstd.

Used by `service.local.frozen.snapshots`. Holes and zeros are omitted: a member is a run of data,
and its name has the offset. `unpack` trusts nothing: names, order, kinds and sizes must be exactly
those that `pack` writes. The reader of the directory checks the checksums.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from waggle.domain.errors import FrozenMachineUnusable
from waggle.infra.archive.decode import Source
from waggle.infra.store.checksums import nonzero_blocks
from waggle.infra.store.frozen_files import FILES, MANIFEST

_SIZES = "sizes.json"
_MOST_JSON = 1 << 20
_RUN = 1 << 22
_WINDOW = 1 << 27
_NAME = re.compile(rf"({'|'.join(map(re.escape, FILES))})/([0-9a-f]{{16}})")
_END = bytes(2 * tarfile.BLOCKSIZE)
Bounds = Callable[[bytes], Mapping[str, int]]
"""Returns the maximum size of every file, from the text of the manifest."""


def pack(directory: Path, manifest: bytes, out: BinaryIO) -> None:
    """Write a whole directory to `out`, with this manifest. Blocks. Raises OSError."""
    sizes = {name: (directory / name).stat().st_size for name in FILES}
    packer = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with packer.stream_writer(out, closefd=False) as packed:
        for name, data in ((MANIFEST, manifest), (_SIZES, json.dumps(sizes).encode())):
            packed.write(_member(name, data))
        for name in FILES:
            for at, data in _runs(directory / name):
                packed.write(_member(f"{name}/{at:016x}", data))
        packed.write(_END)


def unpack(source: BinaryIO, directory: Path, bounds: Bounds) -> None:
    """Unpack the output of `pack` into an empty directory, and sync the files. Blocks.

    Writes at most the bounds. Raises FrozenMachineUnusable for everything that `pack` does not
    write, OSError, and the errors of `bounds`; the caller then removes the directory.
    """
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(source)
    try:
        manifest = _expect(reader, MANIFEST)
        sizes = _sizes(_expect(reader, _SIZES), bounds(manifest))
        _write(directory / MANIFEST, len(manifest), [(0, manifest)])
        members = _Members(reader)
        for name in FILES:
            _write(directory / name, sizes[name], members.of(name))
        members.end()
        if reader.read(1):
            raise _refused("something follows its end")
    except zstandard.ZstdError as error:
        raise _refused(f"it cannot be unpacked: {error}") from error


def _runs(path: Path) -> Generator[tuple[int, bytes]]:
    """Yield data that is not zero, in runs of whole blocks, with their offsets."""
    begin, run = 0, bytearray()
    with path.open("rb") as file:
        for at, block in nonzero_blocks(file.fileno()):
            if run and (at != begin + len(run) or len(run) + len(block) > _RUN):
                yield begin, bytes(run)
                run.clear()
            if not run:
                begin = at
            run += block
    if run:
        yield begin, bytes(run)


def _member(name: str, data: bytes) -> bytes:
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(data), 0o600
    return about.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


class _Members:
    """The runs of data in their order, with one read ahead."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._next = self._read()

    def of(self, name: str) -> Generator[tuple[int, bytes]]:
        """Yield the runs of one file until another file's run follows."""
        while self._next is not None and self._next[0] == name:
            yield self._next[1:]
            self._next = self._read()

    def end(self) -> None:
        """Raise FrozenMachineUnusable unless all runs were read."""
        if self._next is not None:
            raise _refused("its members are not in order")

    def _read(self) -> tuple[str, int, bytes] | None:
        read = _read_member(self._source, _RUN)
        if read is None:
            return None
        match = _NAME.fullmatch(read[0])
        if match is None:
            raise _refused(f"it has a member {read[0][:60]!a}")
        return match[1], int(match[2], 16), read[1]


def _read_member(source: Source, most: int) -> tuple[str, bytes] | None:
    """Return a member's name and data; None at the end."""
    head = _exactly(source, tarfile.BLOCKSIZE)
    if not any(head):
        if any(_exactly(source, tarfile.BLOCKSIZE)):
            raise _refused("it has no proper end")
        return None
    try:
        about = tarfile.TarInfo.frombuf(head, "ascii", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise _refused("a member has a damaged head") from error
    if about.type != tarfile.REGTYPE:
        raise _refused(f"its member {about.name[:60]!a} is not a file")
    if not 0 <= about.size <= most:
        raise _refused(f"its member {about.name[:60]!a} is too large")
    data = _exactly(source, about.size)
    _exactly(source, -about.size % tarfile.BLOCKSIZE)
    return about.name, data


def _exactly(source: Source, size: int) -> bytes:
    parts, left = list[bytes](), size
    while left:
        if not (part := source.read(left)):
            raise _refused("it is cut off")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _expect(source: Source, name: str) -> bytes:
    read = _read_member(source, _MOST_JSON)
    if read is None or read[0] != name:
        raise _refused(f"{name} is not in its place")
    return read[1]


def _sizes(text: bytes, most: Mapping[str, int]) -> dict[str, int]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"{_SIZES} is damaged") from error
    table = cast("dict[object, object]", value) if isinstance(value, dict) else {}
    if set(table) != set(FILES):
        raise _refused(f"{_SIZES} lists other files")
    sizes: dict[str, int] = {}
    for name in FILES:
        size = table[name]
        if type(size) is not int or not 0 <= size <= most[name]:
            raise _refused(f"{name} has an impossible size")
        sizes[name] = size
    return sizes


def _write(path: Path, size: int, runs: Iterable[tuple[int, bytes]]) -> None:
    """Write runs, which must ascend and be within the size, into a new file with holes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    end = 0
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.truncate(size)
        for at, data in runs:
            if at < end or at + len(data) > size:
                raise _refused(f"data of {path.name} has an impossible position")
            file.seek(at)
            file.write(data)
            end = at + len(data)
        file.flush()
        os.fsync(file.fileno())


def _refused(why: str) -> FrozenMachineUnusable:
    return FrozenMachineUnusable(
        f"The file is not a snapshot as waggle exports it: {why}.", hint="Export it again."
    )
