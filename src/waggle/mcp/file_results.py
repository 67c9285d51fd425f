# SPDX-License-Identifier: Apache-2.0
"""What the tools for files, searches and trees return, as models.

As in `waggle.mcp.results`: times are RFC 3339 in UTC, sizes bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class WrittenFile(BaseModel):
    """A file that was written."""

    status: Literal["written"] = "written"
    path: str
    bytes_written: int


class FileContent(BaseModel):
    """A file, or one page of it."""

    path: str
    content: str = Field(description="Text, or base64: see encoding.")
    encoding: str = Field(description="utf-8 or base64.")
    mime_type: str = Field(description="By the file's name; an image's by its content.")
    size: int = Field(description="Bytes of the whole file.")
    offset: int = Field(description="Where this page begins, in bytes.")
    truncated: bool = Field(description="There is more after this page.")
    next_offset: int | None = Field(description="The offset of the next page, or null.")


class FileItem(BaseModel):
    """One entry of a directory."""

    name: str
    size: int
    is_dir: bool
    is_link: bool
    mode: str = Field(description="Permission bits in octal, e.g. 0644.")
    modified: str = Field(description="RFC 3339.")


class FileList(BaseModel):
    """The entries of a directory, by name."""

    path: str
    files: list[FileItem]
    count: int = Field(description="Entries in this result.")
    truncated: bool = Field(description="The directory holds more than is listed.")


class SearchMatch(BaseModel):
    """A file, or a line of one."""

    path: str
    kind: str = Field(description="file, directory, link or other.")
    size: int | None = Field(description="Bytes; null for a line.")
    line: int | None = Field(description="Counts from 1; null for a match by name alone.")
    column: int | None = Field(description="Where it begins in the line, in bytes from 1.")
    text: str | None = Field(description="The line; a long one is cut around the place.")
    before: list[str] = Field(description="Lines before it.")
    after: list[str] = Field(description="Lines after it.")


class SearchResult(BaseModel):
    """What a search found, in the order of paths."""

    path: str
    matches: list[SearchMatch]
    count: int = Field(description="Matches in this result.")
    truncated: bool = Field(description="There may be more.")
    stopped_by: str | None = Field(description="results, output, entries, bytes, time or null.")
    entries_seen: int
    files_searched: int
    binary_skipped: int
    large_skipped: int
    unreadable: int


class EditedFile(BaseModel):
    """A file that was edited."""

    status: Literal["edited"] = "edited"
    path: str
    replacements: int
    first_line: int = Field(description="The line of the first one, from 1.")
    size: int = Field(description="Bytes of the file now.")
    diff: str = Field(description="What changed, as a unified diff; a long one is cut.")


class LeftOut(BaseModel):
    """Something that is missing, and why."""

    path: str
    reason: str


class UploadedFiles(BaseModel):
    """What became of an archive."""

    status: str = Field(description="uploaded, or partial when some entries failed.")
    path: str
    files: int
    directories: int
    links: int
    bytes_written: int
    failed: int
    failures: list[LeftOut] = Field(description="The first ones.")


class DownloadedFiles(BaseModel):
    """A tree as a tar.gz, or one page of it."""

    path: str
    archive_id: str = Field(description="Names this archive, for its other pages.")
    sha256: str = Field(description="Of the whole archive.")
    size: int = Field(description="Bytes of the whole archive.")
    entries: int = Field(description="Files, directories and links that the guest sent.")
    left_out: list[LeftOut] = Field(description="What is not in the archive; the first ones.")
    left_out_count: int
    content: str = Field(description="This page as base64.")
    offset: int
    truncated: bool = Field(description="There is more after this page.")
    next_offset: int | None = Field(description="The offset of the next page, or null.")
    uri: str = Field(description="Resource with the archive, in pages.")
