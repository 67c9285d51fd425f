# SPDX-License-Identifier: Apache-2.0
"""Whole files of `waggle agent`: to standard output or a file, and from a file, in parts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, Final, cast

from waggle.cli.progress import filling
from waggle.domain.errors import InvalidArgument
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol.files import Written

_MIB: Final = 1 << 20


@contextlib.contextmanager
def _target(path: Path | None) -> Generator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be written: {error.strerror}.") from error
    with file:
        yield file


def put(data: bytes, output: Path | None) -> None:
    """Write bytes to a file, or to standard output. Raises InvalidArgument."""
    with _target(output) as file:
        file.write(data)


async def read(client: AgentClient, values: Mapping[str, object], output: Path | None) -> None:
    """Copy a file of the guest from an offset on, with a bar if that goes to a file."""
    path, offset = str(values["path"]), cast("int", values.get("offset", 0))
    title = f"Reading {path}"
    with contextlib.ExitStack() as stack:
        report = None if output is None else stack.enter_context(filling(title))
        file: BinaryIO | None = None
        done = 0
        async with aclosing(client.read_parts(path, offset)) as parts:
            async for part in parts:
                file = file or stack.enter_context(_target(output))  # not before there is a file
                file.write(part.data)
                done += len(part.data)
                if report is not None:
                    report(min(1.0, done / max(part.size - offset, 1)), f"{done / _MIB:.1f} MiB")


async def write(client: AgentClient, source: Path, values: Mapping[str, object]) -> Written:
    """Copy a file into the guest, with a bar."""
    path, mode = str(values["path"]), cast("int | None", values.get("mode"))
    piece = await client.piece_bytes()
    with source.open("rb") as file, filling(f"Writing {path}") as report:
        size = max(source.stat().st_size, 1)
        done = [0]

        def tell(count: int) -> None:
            done[0] = count
            report(min(1.0, count / size), f"{count / _MIB:.1f} MiB")

        pieces = iter(lambda: file.read(piece), b"")
        await client.write_parts(path, pieces, mode=mode, report=tell)
    return Written(written=done[0], size=done[0])
