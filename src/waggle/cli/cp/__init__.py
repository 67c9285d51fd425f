# SPDX-License-Identifier: Apache-2.0
"""`waggle cp`: it carries out the plan of `sources` with upload_files and download_files."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from mcp import Client

from waggle.cli.client import CallRefused, call, connected_by, find
from waggle.cli.cp.sources import (
    CopyFailed,
    Download,
    Remote,
    Source,
    Upload,
    downloaded_to,
    look,
    pack,
    pieces,
    plan,
    uploaded_to,
)
from waggle.cli.cp.writing import Written, write_file, write_tree
from waggle.cli.progress import filling, print_json, say
from waggle.config import load
from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import MAX_TREE_BYTES, Skipped, shown_name
from waggle.infra.archive.trees import read_packed
from waggle.mcp.results.pages import BASE64_PAGE_BYTES

LONG_BYTES = 1 << 20
"""Shorter copies show no progress."""
_MOST_ARCHIVE = MAX_TREE_BYTES + (64 << 20)
Advance = Callable[[float, str], None]


@dataclass(slots=True)
class Copied:
    """The result for one source. `left_out` holds pairs of path and reason."""

    source: str
    target: str
    written: Written = field(default_factory=Written)
    left_out: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def miss(self, skipped: Sequence[Skipped]) -> None:
        """Add entries that were not copied."""
        self.left_out += [(shown_name(entry.name), entry.reason) for entry in skipped]

    def as_json(self) -> dict[str, Any]:
        """Return the result as printed for scripts."""
        left_out = [{"path": path, "reason": reason} for path, reason in self.left_out]
        done = asdict(self.written)
        done["bytes"] = done.pop("size")
        return {"source": self.source, "target": self.target, **done, "left_out": left_out}


def cp(words: Sequence[str], *, recursive: bool, as_json: bool) -> int:
    """Copy, and return the exit code: 1 when something was left out, which stderr lists.

    Raises InvalidArgument, CopyFailed, NotFound and the server's refusals.
    """
    copied = anyio.run(partial(_connect_and_copy, plan(words), recursive=recursive))
    if as_json:
        print_json([done.as_json() for done in copied])
    for done in copied:
        for path, reason in done.left_out:
            say(f"Left out {path} of {done.source}: {reason}.")
    return 1 if any(done.left_out for done in copied) else 0


async def _connect_and_copy(wanted: Upload | Download, *, recursive: bool) -> list[Copied]:
    async with connected_by(load()) as client:
        return await copy(client, wanted, recursive=recursive)


async def copy(client: Client, wanted: Upload | Download, *, recursive: bool) -> list[Copied]:
    """Copy over a connected client."""
    if isinstance(wanted, Upload):
        return await _upload(client, wanted, recursive=recursive)
    return await _download(client, wanted, recursive=recursive)


async def _upload(client: Client, wanted: Upload, *, recursive: bool) -> list[Copied]:
    """Copy into an environment. All sources are inspected before anything is sent."""
    target = wanted.target
    environment_id = (await find(client, target.environment))["environment_id"]
    there = await _is_directory(client, environment_id, target.path)
    many = len(wanted.sources) > 1
    if many and not there and not target.path.endswith("/"):
        raise CopyFailed(
            f"{target} is no directory, and there are several sources.",
            hint="End it with a slash to create it.",
        )
    into = there or many or target.path.endswith("/")
    inspected: list[tuple[Path, str, Source]] = []
    for source in wanted.sources:
        directory, name = uploaded_to(target, _name(source), into=into)
        found = await anyio.to_thread.run_sync(partial(look, source, name, recursive=recursive))
        inspected.append((source, directory, found))
    return [
        await _send(client, environment_id, directory, found, Copied(str(source), str(target)))
        for source, directory, found in inspected
    ]


def _name(source: Path) -> str:
    """Return the name of a copy; empty if the content is meant, as with `/`, `.` and `..`."""
    return "" if source.name == ".." else source.name


async def _send(
    client: Client, environment_id: str, directory: str, source: Source, copied: Copied
) -> Copied:
    copied.miss(source.left_out)
    with _shown(f"Copying {copied.source}", source.size) as advance:
        sent = 0
        for piece in pieces(source.found):
            archive, missing = await anyio.to_thread.run_sync(pack, piece)
            copied.miss(missing)
            result = await call(
                client,
                "upload_files",
                environment_id=environment_id,
                path=directory,
                archive=base64.b64encode(archive).decode("ascii"),
            )
            copied.written.files += result.get("files", 0)
            copied.written.directories += result.get("directories", 0)
            copied.written.links += result.get("links", 0)
            copied.written.size += result.get("bytes_written", 0)
            sent += sum(entry.size for entry in piece)
            advance(sent / max(source.size, 1), f"{sent:,} of {source.size:,} bytes")
    return copied


async def _download(client: Client, wanted: Download, *, recursive: bool) -> list[Copied]:
    """Copy out of environments."""
    target, into = wanted.target, wanted.target.is_dir()
    if len(wanted.sources) > 1 and not into:
        raise CopyFailed(f"{target} is no directory, and there are several sources.")
    copied: list[Copied] = []
    for source in wanted.sources:
        environment_id = (await find(client, source.environment))["environment_id"]
        is_tree = await _is_directory(client, environment_id, source.path)
        if is_tree and not recursive:
            raise CopyFailed(f"{source} is a directory.", hint="Copy a tree with -r.")
        place = downloaded_to(target, source, into=into)
        copied.append(await _receive(client, environment_id, source, place, is_tree=is_tree))
    return copied


async def _receive(
    client: Client, environment_id: str, source: Remote, place: Path, *, is_tree: bool
) -> Copied:
    copied = Copied(str(source), str(place))
    archive, left_out = await _archive(client, environment_id, source)
    copied.left_out += left_out
    try:
        entries = await anyio.to_thread.run_sync(read_packed, archive)
    except (InvalidArgument, TooLarge) as error:
        raise CopyFailed(f"Nothing of {source} was written: {error.message}") from error
    if is_tree:
        copied.written, failed = await anyio.to_thread.run_sync(write_tree, place, entries)
        copied.miss(failed)
        return copied
    if [entry.kind for entry in entries] != [Kind.FILE]:
        raise CopyFailed(f"{source} is no file.")
    copied.written = await anyio.to_thread.run_sync(write_file, place, entries[0])
    return copied


async def _archive(
    client: Client, environment_id: str, source: Remote
) -> tuple[bytes, list[tuple[str, str]]]:
    """Return the whole archive, and the entries that the guest left out."""
    arguments: dict[str, object] = {
        "environment_id": environment_id,
        "path": source.path or ".",
        "limit": BASE64_PAGE_BYTES,
    }
    page = await call(client, "download_files", **arguments)
    left_out = [(entry["path"], entry["reason"]) for entry in page.get("left_out", [])]
    if more := page.get("left_out_count", 0) - len(left_out):
        left_out.append((f"{more} more entries", "for reasons such as the first ones"))
    size = int(page["size"])
    if size > _MOST_ARCHIVE:
        raise CopyFailed(f"{source} is larger than one tree may be.")
    data = bytearray(base64.b64decode(page["content"], validate=True))
    with _shown(f"Copying {source}", size) as advance:
        while "next_offset" in page and len(data) < size:
            page = await call(
                client,
                "download_files",
                **arguments,
                archive_id=page["archive_id"],
                offset=len(data),
            )
            data += base64.b64decode(page["content"], validate=True)
            advance(len(data) / size, f"{len(data):,} of {size:,} bytes packed")
    if len(data) != size:
        raise CopyFailed(f"The server sent {len(data)} bytes of {source} instead of {size}.")
    return bytes(data), left_out


@contextlib.contextmanager
def _shown(title: str, size: int) -> Generator[Advance]:
    """Show a bar for a copy of LONG_BYTES or more."""
    if size < LONG_BYTES:
        yield lambda _share, _text: None
        return
    with filling(title) as advance:
        yield advance


async def _is_directory(client: Client, environment_id: str, path: str) -> bool:
    """Whether the path is a directory. Errors show in the calls that follow."""
    try:
        await call(client, "list_files", environment_id=environment_id, path=path or ".")
    except CallRefused:
        return False
    return True
