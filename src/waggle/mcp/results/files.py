# SPDX-License-Identifier: Apache-2.0
"""Result models of the tools for files, searches and archives, and the results for archives. Pure.

Called by `waggle.mcp.tools` and `results.listings`.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Sequence

from mcp_types import BlobResourceContents, EmbeddedResource, ResourceLink
from pydantic import BaseModel, Field

from waggle.domain.files.tree import Skipped, Unpacked, shown_name
from waggle.mcp.errors import Failure
from waggle.mcp.results import NOTE, Reply, failed, readable, success
from waggle.mcp.uris import ARCHIVE_TYPE, archive_uri
from waggle.service.files.trees import Archive

FILE_MODE = "0644"
DIRECTORY_MODE = "0755"


class WrittenFile(BaseModel):
    """A file that was written."""

    path: str
    bytes_written: int = 0


class FileContent(BaseModel):
    """A file, or one page of it."""

    content: str = Field(default="", description="Text; base64 where encoding says so.")
    encoding: str = Field(default="utf-8", description="utf-8 unless given.")
    mime_type: str = Field(
        default="", description="Of a file that is not text: by its content, or its name."
    )
    size: int = Field(default=0, description="Bytes of the whole file.")
    offset: int = Field(default=0, description="Where this page begins, in bytes.")
    next_offset: int | None = Field(
        default=None, description="The next page's, unless this is the last."
    )
    uri: str = Field(default="", description="Resource with the file, where it is not in content.")
    note: str = Field(default="", description=NOTE)


class FileItem(BaseModel):
    """One entry of a directory."""

    name: str
    size: int = 0
    is_dir: bool = False
    is_link: bool = False
    mode: str = Field(default="", description="Octal; only if not 0644, or 0755 of a directory.")


class FileList(BaseModel):
    """The entries of a directory, by name."""

    files: list[FileItem] = Field(default_factory=list[FileItem])
    count: int = Field(default=0, description="Entries in this result.")
    more: int = Field(default=0, description="Entries that are not in it.")
    note: str = Field(default="", description=NOTE)


class SearchMatch(BaseModel):
    """A file, or a line of one."""

    path: str
    kind: str = Field(default="file", description="directory, link or other; else a file.")
    line: int = Field(default=0, description="Counts from 1; none for a match by name alone.")
    text: str = Field(default="", description="The line; a long one is cut around the place.")
    before: list[str] = Field(default_factory=list[str], description="Lines before it.")
    after: list[str] = Field(default_factory=list[str], description="Lines after it.")


class SearchResult(BaseModel):
    """The matches of a search, in the order of paths."""

    matches: list[SearchMatch] = Field(default_factory=list[SearchMatch])
    count: int = Field(default=0, description="Matches in this result.")
    more: int = Field(default=0, description="Matches that were found and are not in it.")
    stopped_by: str = Field(
        default="", description="results, output, entries, bytes or time, if there may be more."
    )
    binary_skipped: int = 0
    large_skipped: int = 0
    unreadable: int = 0
    note: str = Field(default="", description=NOTE)


class EditedFile(BaseModel):
    """A file that was edited."""

    path: str
    replacements: int
    diff: str = Field(default="", description="The change, as a unified diff; a long one is cut.")


class LeftOut(BaseModel):
    """Something that is missing, and why."""

    path: str
    reason: str


class UploadedFiles(BaseModel):
    """The entries of an archive that were written."""

    path: str
    files: int = 0
    directories: int = 0
    links: int = 0
    bytes_written: int = 0
    failed: int = Field(default=0, description="Entries that were not written.")
    failures: list[LeftOut] = Field(default_factory=list[LeftOut], description="The first ones.")


class DownloadedFiles(BaseModel):
    """A tree as a tar.gz: where it can be read, and a page of it if limit was given."""

    path: str
    archive_id: str = Field(description="Names this archive, for its pages.")
    sha256: str = Field(description="Of the whole archive.")
    size: int = Field(description="Bytes of the whole archive.")
    entries: int = Field(default=0, description="Files, directories and links that the guest sent.")
    left_out: list[LeftOut] = Field(
        default_factory=list[LeftOut], description="The first entries that are not in the archive."
    )
    left_out_count: int = 0
    uri: str = Field(default="", description="Resource with the archive, in pages.")
    content: str = Field(default="", description="A page as base64, if limit was given.")
    offset: int = Field(default=0, description="Where that page begins.")
    next_offset: int | None = Field(
        default=None, description="The next page's, unless that is the last."
    )


_MAX_LISTED = 20


def uploaded(path: str, done: Unpacked) -> Reply:
    """Return the result of upload_files; failed entries make it an error that has all of it."""
    result = UploadedFiles(
        path=readable(path),
        files=done.files,
        directories=done.directories,
        links=done.links,
        bytes_written=done.size,
        failed=done.failed,
        failures=_left_out(done.failures),
    )
    text = (
        f"Wrote {result.files} files, {result.directories} directories and {result.links} "
        f"links, {result.bytes_written} bytes, below {result.path}."
    )
    if not done.failed:
        return success(result, text)
    first = "; ".join(f"{item.path}: {item.reason}" for item in result.failures)
    more = f" and {done.failed - len(result.failures)} more" * (done.failed > len(result.failures))
    failure = Failure(
        "partial_upload",
        f"{text} {done.failed} entries failed: {first}{more}.",
        "The written files stay. Remove the cause, then send the rest or all of it again.",
    )
    return failed(failure, result)


def _left_out(skipped: Sequence[Skipped]) -> list[LeftOut]:
    return [
        LeftOut(path=readable(shown_name(entry.name)), reason=entry.reason)
        for entry in skipped[:_MAX_LISTED]
    ]


def downloaded(archive: Archive, offset: int, data: bytes | None) -> Reply:
    """Return the result of download_files: the archive's address; with `data`, a page as well."""
    uri = archive_uri(archive.environment_id, archive.id)
    result = DownloadedFiles(
        path=readable(archive.path),
        archive_id=archive.id,
        sha256=archive.sha256,
        size=archive.size,
        entries=archive.entries,
        left_out=_left_out(archive.left_out.first),
        left_out_count=archive.left_out.count,
        uri=uri,
    )
    text = (
        f"{result.path} as tar.gz: {result.entries} entries, {result.size} bytes, sha256 "
        f"{result.sha256}, archive_id {archive.id}."
    )
    if archive.left_out.count:
        text += f" Left out: {archive.left_out.count}; " + "; ".join(
            f"{item.path}: {item.reason}" for item in result.left_out
        )
    if data is None:
        link = ResourceLink(
            type="resource_link",
            name=f"{posixpath.basename(result.path) or 'root'}.tar.gz",
            uri=uri,
            mime_type=ARCHIVE_TYPE,
            size=archive.size,
        )
        return success(result, text, also=(link,))
    end = offset + len(data)
    result.content, result.offset = base64.b64encode(data).decode("ascii"), offset
    result.next_offset = end if end < archive.size else None
    if result.next_offset is not None or offset:
        last = "this is the end" if result.next_offset is None else f"continue at {end}"
        text += f"\n[bytes {offset} to {end}; {last}]"
    page_uri = f"{uri}?offset={offset}&length={max(len(data), 1)}"
    blob = BlobResourceContents(uri=page_uri, mime_type=ARCHIVE_TYPE, blob=result.content)
    return success(result, text, also=(EmbeddedResource(type="resource", resource=blob),))
