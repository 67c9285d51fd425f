# SPDX-License-Identifier: Apache-2.0
"""The tools that move whole trees as archives: upload_files and download_files."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.execution import HOME
from waggle.domain.filesystem import MAX_FILE_BYTES
from waggle.domain.tree import (
    MAX_ARCHIVE_BYTES,
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    MAX_TREE_FILE,
)
from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.file_results import DownloadedFiles, UploadedFiles
from waggle.mcp.pages import BASE64_PAGE_BYTES, SMALLEST_PAGE, decode_base64
from waggle.mcp.tools.archived import downloaded, uploaded
from waggle.mcp.tools.parameters import EnvironmentId
from waggle.service.trees import MAX_KEPT

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
        self._offer = services.offer

    async def upload_files(
        self, ctx: Ctx, *, environment_id: EnvironmentId, archive: _Archive, path: _Target = None
    ) -> Annotated[CallToolResult, UploadedFiles]:
        """Unpack an archive; entries that fail make it an error that tells the rest."""
        data = decode_base64(archive)
        target, done = await self._trees.upload(
            environment_id, path or None, data, owner=current_owner(ctx)
        )
        return uploaded(target, done, self._offer)

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
        return downloaded(archive, offset, data)


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
