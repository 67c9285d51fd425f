# SPDX-License-Identifier: Apache-2.0
"""The tools that move whole trees as archives: upload_files and download_files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import BlobResourceContents, CallToolResult, EmbeddedResource, ToolAnnotations
from pydantic import Field

from waggle.domain.execution import HOME
from waggle.domain.filesystem import MAX_FILE_BYTES
from waggle.domain.tree import (
    MAX_ARCHIVE_BYTES,
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    MAX_TREE_FILE,
    Skipped,
    Unpacked,
    shown_name,
)
from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.errors import Failure, failure_result
from waggle.mcp.pages import BASE64_PAGE_BYTES, SMALLEST_PAGE, decode_base64
from waggle.mcp.resources.read import ARCHIVE_TYPE
from waggle.mcp.resources.uris import archive_uri
from waggle.mcp.results import DownloadedFiles, LeftOut, UploadedFiles, readable, success
from waggle.mcp.tools.parameters import EnvironmentId
from waggle.service.trees import MAX_KEPT, Archive

_MAX_TOLD = 20

_Archive = Annotated[
    str,
    Field(
        description="A tar, tar.gz, tar.zst or zip as base64, at most "
        f"{MAX_ARCHIVE_BYTES:,} bytes before that."
    ),
]
_Target = Annotated[
    str | None, Field(description=f"Directory to unpack into; it is made. Default {HOME}.")
]
_Source = Annotated[str, Field(description=f"A directory or file; relative to {HOME}.")]
_Exclude = Annotated[
    list[str] | None,
    Field(description="Globs of what to leave out, as with search_files. Default: nothing."),
]
_ArchiveId = Annotated[
    str | None, Field(description="For the next page: archive_id of the last result.")
]
_Offset = Annotated[int, Field(ge=0, description="0, or next_offset of the last result.")]
_Limit = Annotated[
    int | None,
    Field(
        ge=SMALLEST_PAGE,
        le=MAX_FILE_BYTES,
        description="Bytes of the archive to return. Default: what every client accepts, "
        f"{BASE64_PAGE_BYTES:,}. Ask for more only if yours takes results over 1 MiB.",
    ),
]


class TreeTools:
    """upload_files and download_files."""

    def __init__(self, services: Services) -> None:
        self._trees = services.trees

    async def upload_files(
        self, ctx: Ctx, *, environment_id: EnvironmentId, archive: _Archive, path: _Target = None
    ) -> Annotated[CallToolResult, UploadedFiles]:
        """Unpack an archive; entries that fail make it an error that tells the rest."""
        data = decode_base64(archive)
        target, done = await self._trees.upload(
            environment_id, path or None, data, owner=current_owner(ctx)
        )
        result = _uploaded(target, done)
        text = (
            f"Wrote {result.files} files, {result.directories} directories and {result.links} "
            f"links, {result.bytes_written} bytes, below {result.path}."
        )
        if not done.failed:
            return success(result, text)
        first = "; ".join(f"{item.path}: {item.reason}" for item in result.failures)
        more = f" and {done.failed - len(result.failures)} more" * (
            done.failed > len(result.failures)
        )
        failure = Failure(
            "partial_upload",
            f"{text} {done.failed} entries failed: {first}{more}.",
            "What was written stays. Mend the cause, then send the rest or all of it again.",
        )
        return failure_result(failure, structured=result)

    async def download_files(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        path: _Source,
        exclude: _Exclude = None,
        archive_id: _ArchiveId = None,
        offset: _Offset = 0,
        limit: _Limit = None,
    ) -> Annotated[CallToolResult, DownloadedFiles]:
        """Pack a tree, or return a further page of an archive."""
        owner = current_owner(ctx)
        if archive_id:
            archive = self._trees.kept(environment_id, archive_id, owner=owner)
        else:
            archive = await self._trees.download(
                environment_id, path, owner=owner, exclude=exclude or ()
            )
        data = archive.read(offset, BASE64_PAGE_BYTES if limit is None else limit)
        return _downloaded(archive, offset, data)


def _uploaded(path: str, done: Unpacked) -> UploadedFiles:
    return UploadedFiles(
        status="partial" if done.failed else "uploaded",
        path=readable(path),
        files=done.files,
        directories=done.directories,
        links=done.links,
        bytes_written=done.size,
        failed=done.failed,
        failures=_left_out(done.failures),
    )


def _left_out(skipped: Sequence[Skipped]) -> list[LeftOut]:
    return [
        LeftOut(path=readable(shown_name(each.name)), reason=each.reason)
        for each in skipped[:_MAX_TOLD]
    ]


def _downloaded(archive: Archive, offset: int, data: bytes) -> CallToolResult:
    end = offset + len(data)
    next_offset = end if end < archive.size else None
    result = DownloadedFiles(
        path=readable(archive.path),
        archive_id=archive.id,
        sha256=archive.sha256,
        size=archive.size,
        entries=archive.entries,
        left_out=_left_out(archive.left_out),
        left_out_count=len(archive.left_out),
        content=base64.b64encode(data).decode("ascii"),
        offset=offset,
        truncated=next_offset is not None,
        next_offset=next_offset,
        uri=archive_uri(archive.environment_id, archive.id),
    )
    text = f"{result.path} as tar.gz: {result.entries} entries, {result.size} bytes."
    if archive.left_out:
        text += f" Left out: {len(archive.left_out)}; " + "; ".join(
            f"{item.path}: {item.reason}" for item in result.left_out[:5]
        )
    if next_offset is not None or offset:
        last = "this is the end" if next_offset is None else f"go on at {next_offset}"
        text += f"\n[bytes {offset} to {end}; {last}, with archive_id {archive.id}]"
    page_uri = f"{result.uri}?offset={offset}&length={max(len(data), 1)}"
    blob = BlobResourceContents(uri=page_uri, mime_type=ARCHIVE_TYPE, blob=result.content)
    return success(result, text, also=(EmbeddedResource(type="resource", resource=blob),))


def tree_tools(services: Services) -> list[Tool]:
    """The tools of this module."""
    tools = TreeTools(services)
    return [
        make_tool(
            tools.upload_files,
            title="Upload files",
            description=(
                "Unpack an archive below a directory: many files in one call, in which files of "
                f"the same name are replaced. At most {MAX_TREE_ENTRIES:,} entries, "
                f"{MAX_TREE_BYTES:,} bytes unpacked, {MAX_TREE_FILE:,} in one file. Entries that "
                "are absolute, climb out with '..', link out or are devices make it refuse the "
                "whole archive.\n"
                'Example: {"environment_id": "...", "archive": "H4sIAAAA...", "path": "project"}'
            ),
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=True,
                idempotent_hint=True,
                open_world_hint=False,
            ),
        ),
        make_tool(
            tools.download_files,
            title="Download files",
            description=(
                "Pack a directory as a tar.gz, for programs that keep it (to look at files, "
                f"read_file is better). At most {MAX_TREE_ENTRIES:,} entries and "
                f"{MAX_TREE_BYTES:,} bytes. Comes as base64, a large one in pages: while truncated "
                "is true, call again with archive_id and offset set to next_offset. The last "
                f"{MAX_KEPT} archives of an environment stay readable, also as resources.\n"
                'Example: {"environment_id": "...", "path": "project", "exclude": '
                '["node_modules", "*.pyc"]} or {"environment_id": "...", "path": "project", '
                '"archive_id": "0f3a...", "offset": 360000}'
            ),
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        ),
    ]
