# SPDX-License-Identifier: Apache-2.0
"""The tools that move whole trees as archives: upload_files and download_files."""

from __future__ import annotations

from typing import Annotated

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.files.filesystem import MAX_FILE_BYTES
from waggle.domain.programs.execution import HOME
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.results.archived import downloaded, uploaded
from waggle.mcp.results.files import DownloadedFiles, UploadedFiles
from waggle.mcp.results.pages import BASE64_PAGE_BYTES, SMALLEST_PAGE, decode_base64
from waggle.mcp.schema.parameters import LARGE_RESULTS, EnvironmentId, searchable
from waggle.mcp.schema.tool import OfferedTool, make_tool

_Archive = Annotated[str, Field(description="tar (.gz, .bz2, .xz, .zst) or zip, as base64.")]
_Target = Annotated[str | None, Field(description=f"Directory. Default {HOME}.")]
_Source = Annotated[str, Field(description="Directory or file.")]
_Exclude = Annotated[list[str] | None, Field(description="Globs to leave out.")]
_ArchiveId = Annotated[str | None, Field(description="Of the last result, for its next page.")]
_ArchiveOffset = Annotated[int, Field(ge=0, description="next_offset of the last result.")]
_ArchiveLimit = Annotated[
    int | None,
    Field(ge=SMALLEST_PAGE, le=MAX_FILE_BYTES, description="Return so many bytes as base64."),
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
        offset: _ArchiveOffset = 0,
        limit: _ArchiveLimit = None,
    ) -> Annotated[CallToolResult, DownloadedFiles]:
        """Pack a tree, or return a further page of an archive."""
        owner = current_owner(ctx)
        if archive_id:
            archive = self._trees.kept(environment_id, archive_id, owner=owner)
        else:
            archive = await self._trees.download(
                environment_id, path, owner=owner, exclude=exclude or ()
            )
        asked = limit is not None or archive_id is not None
        data = archive.read(offset, limit or BASE64_PAGE_BYTES) if asked else None
        return downloaded(archive, offset, data, self._offer)


def tree_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = TreeTools(services)
    return [
        make_tool(
            tools.upload_files,
            title="Upload files",
            description="Unpack an archive below a directory: many files in one call.",
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=False,
            ),
            meta=searchable("upload a project or directory into a sandbox"),
        ),
        make_tool(
            tools.download_files,
            title="Download files",
            description="Pack a directory as tar.gz, for programs that keep it: a link to a "
            "resource, or with limit, pages of base64.",
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
            meta={**searchable("download a directory from a sandbox"), **LARGE_RESULTS},
        ),
    ]
