# SPDX-License-Identifier: Apache-2.0
"""The tools that write, read and list files, and that upload and download trees as archives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from waggle.domain.files import MAX_FILE_BYTES
from waggle.domain.programs import HOME
from waggle.domain.programs.runtime import encoded
from waggle.mcp.context import Ctx, Services, current_owner, reporter
from waggle.mcp.observed import introduced
from waggle.mcp.results import Reply, readable, success
from waggle.mcp.results.files import (
    DownloadedFiles,
    FileContent,
    FileList,
    UploadedFiles,
    WrittenFile,
    downloaded,
    uploaded,
)
from waggle.mcp.results.listings import MAX_LISTED, file_result, list_result
from waggle.mcp.results.pages import (
    BASE64_PAGE_BYTES,
    SMALLEST_PAGE,
    TEXT_PAGE,
    decode_base64,
    model_window,
    page,
)
from waggle.mcp.schema.outputs import listed_as
from waggle.mcp.schema.parameters import (
    LARGE_RESULTS,
    Content,
    EnvironmentId,
    NewRuntime,
    OptionalEnvironmentId,
    searchable,
)
from waggle.mcp.schema.tool import READS, SETTLES, OfferedTool, make_tool
from waggle.service.environments.creating import CreateRequest
from waggle.service.environments.provision import provided

_Path = Annotated[str, Field(description=f"Relative to {HOME}.")]
_Content = Annotated[Content, Field(description="The whole content.")]
_Mode = Annotated[
    str | int | None,
    Field(
        description="Octal. Default: as it is, else 0644.",
        json_schema_extra=listed_as(type="string"),
    ),
]
_WriteEncoding = Annotated[Literal["utf-8", "base64"], Field(description="Of content.")]
_ReadEncoding = Annotated[
    Literal["auto", "utf-8", "base64"],
    Field(description="base64 for the bytes of what is no text."),
]
_Offset = Annotated[int, Field(ge=0, description="0, or next_offset of the last result.")]
_Limit = Annotated[int | None, Field(ge=SMALLEST_PAGE, le=MAX_FILE_BYTES, description="Bytes.")]
_Directory = Annotated[str | None, Field(description=f"Default {HOME}.")]


class FilesystemTools:
    """write_file, read_file, list_files."""

    def __init__(self, services: Services) -> None:
        self._files = services.filesystem
        self._environments = services.environments

    async def write_file(
        self,
        ctx: Ctx,
        *,
        path: _Path,
        content: _Content,
        environment_id: OptionalEnvironmentId = None,
        runtime: NewRuntime = None,
        mode: _Mode = None,
        encoding: _WriteEncoding = "utf-8",
    ) -> Annotated[Reply, WrittenFile]:
        """Write a whole file."""
        data = (
            decode_base64(content)
            if encoding == "base64"
            else encoded(content, "The content", hint="Send it with encoding 'base64'.")
        )
        self._files.check(path, data, mode)
        owner, environments = current_owner(ctx), self._environments
        async with provided(
            environments,
            environment_id,
            lambda: CreateRequest(environments.limits.runtime_of(runtime)),
            owner=owner,
            progress=reporter(ctx),
        ) as place:
            written = await self._files.write(place.id, path, data, owner=owner, mode=mode or None)
            place.keep()
        result = WrittenFile(path=readable(written), bytes_written=len(data))
        told = success(result, f"Wrote {result.bytes_written} bytes to {result.path}.")
        return introduced(told, place)

    async def read_file(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        path: _Path,
        encoding: _ReadEncoding = "auto",
        offset: _Offset = 0,
        limit: _Limit = None,
    ) -> Annotated[Reply, FileContent]:
        """Read a file, or one page of it."""
        wanted = None if encoding == "auto" else encoding
        owner = current_owner(ctx)
        environment_id = self._environments.get(environment_id, owner=owner).id
        name, read = await self._files.read(
            environment_id,
            path,
            owner=owner,
            offset=offset,
            length=model_window(offset, limit, wanted),
        )
        part = page(
            read.data,
            offset=offset,
            size=read.size,
            encoding=wanted,
            whole=limit is not None,
            characters=TEXT_PAGE,
        )
        asked = wanted == "base64"
        return file_result(environment_id, name, read.data, part, as_bytes=asked)

    async def list_files(
        self, ctx: Ctx, *, environment_id: EnvironmentId, path: _Directory = None
    ) -> Annotated[Reply, FileList]:
        """List a directory."""
        listing = await self._files.list(environment_id, path or None, owner=current_owner(ctx))
        return list_result(listing)


def filesystem_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = FilesystemTools(services)
    return [
        make_tool(
            tools.write_file,
            title="Write a file",
            description="Write a file, replacing what is there. Makes missing directories.",
            annotations=SETTLES,
            meta=searchable("write, create or save a file in a sandbox"),
        ),
        make_tool(
            tools.read_file,
            title="Read a file",
            description="Read a file: text, an image, or base64. A long one comes in pages: go on "
            "with offset.",
            annotations=READS,
            shows_pictures=True,
            meta={**searchable("read, show or download a file of a sandbox"), **LARGE_RESULTS},
        ),
        make_tool(
            tools.list_files,
            title="List files",
            description=f"List a directory: {MAX_LISTED} entries.",
            annotations=READS,
            meta=searchable("list a directory of a sandbox"),
        ),
    ]


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

    async def upload_files(
        self, ctx: Ctx, *, environment_id: EnvironmentId, archive: _Archive, path: _Target = None
    ) -> Annotated[Reply, UploadedFiles]:
        """Unpack an archive; entries that fail make it an error that tells the rest."""
        data = decode_base64(archive)
        target, done = await self._trees.upload(
            environment_id, path or None, data, owner=current_owner(ctx)
        )
        return uploaded(target, done)

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
    ) -> Annotated[Reply, DownloadedFiles]:
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
        return downloaded(archive, offset, data)


def tree_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = TreeTools(services)
    return [
        make_tool(
            tools.upload_files,
            title="Upload files",
            description="Unpack an archive below a directory: many files in one call.",
            annotations=SETTLES,
            meta=searchable("upload a project or directory into a sandbox"),
        ),
        make_tool(
            tools.download_files,
            title="Download files",
            description="Pack a directory as tar.gz, for programs that keep it: a link to a "
            "resource, or with limit, pages of base64.",
            annotations=READS,
            meta={**searchable("download a directory from a sandbox"), **LARGE_RESULTS},
        ),
    ]
