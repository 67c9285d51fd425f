# SPDX-License-Identifier: Apache-2.0
"""The tools that write, read, list, search and edit files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from waggle.domain.files import MAX_FILE_BYTES, parse_path
from waggle.domain.files.search import (
    ALWAYS_SKIPPED,
    DEFAULT_RESULTS,
    MAX_CONTEXT,
    MAX_PATTERN,
    MAX_RESULTS,
    SearchQuery,
    check_excludes,
)
from waggle.domain.programs import HOME
from waggle.domain.programs.runtime import encoded
from waggle.mcp.context import Ctx, Services, current_owner, reporter
from waggle.mcp.observed import introduced
from waggle.mcp.results import Reply, readable, success
from waggle.mcp.results.files import EditedFile, FileContent, FileList, SearchResult, WrittenFile
from waggle.mcp.results.listings import MAX_LISTED, file_result, list_result, search_result
from waggle.mcp.results.pages import SMALLEST_PAGE, TEXT_PAGE, decode_base64, model_window, page
from waggle.mcp.schema import listed_as
from waggle.mcp.schema.parameters import (
    LARGE_RESULTS,
    Content,
    EnvironmentId,
    NewRuntime,
    OptionalEnvironmentId,
    searchable,
)
from waggle.mcp.schema.tool import CHANGES, READS, SETTLES, OfferedTool, make_tool
from waggle.service.environments.creating import CreateRequest
from waggle.service.environments.provision import provided

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
    Field(description="base64 for the bytes of a file that is not text."),
]
_Offset = Annotated[int, Field(ge=0, description="0, or next_offset of the last result.")]
_Limit = Annotated[int | None, Field(ge=SMALLEST_PAGE, le=MAX_FILE_BYTES, description="Bytes.")]
_Directory = Annotated[str | None, Field(description=f"Default {HOME}.")]
_Root = Annotated[str | None, Field(description=f"Directory or file. Default {HOME}.")]
_Name = Annotated[
    str | None, Field(max_length=MAX_PATTERN, description="Glob, as *.py or src/**/test_*.py.")
]
_Line = Annotated[str | None, Field(max_length=MAX_PATTERN, description="Text in a line.")]
_Regex = Annotated[bool, Field(description="content is a POSIX extended regular expression.")]
_IgnoreCase = Annotated[bool, Field()]
_MaxResults = Annotated[int, Field(ge=1, le=MAX_RESULTS)]
_Context = Annotated[
    int, Field(ge=0, le=MAX_CONTEXT, description="Lines shown before and after a match.")
]
_SearchExclude = Annotated[
    list[str] | None,
    Field(description=f"Globs to leave out. Default: {', '.join(ALWAYS_SKIPPED)}."),
]
_File = Annotated[str, Field(description=f"Relative to {HOME}.")]
_Old = Annotated[str, Field(min_length=1, description="Exactly as in the file.")]
_New = Annotated[str, Field()]
_All = Annotated[bool, Field()]


class FilesystemTools:
    """write_file, read_file, list_files, search_files and edit_file."""

    def __init__(self, services: Services) -> None:
        self._files = services.filesystem
        self._environments = services.environments

    async def write_file(
        self,
        ctx: Ctx,
        *,
        path: _File,
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
        reply = success(result, f"Wrote {result.bytes_written} bytes to {result.path}.")
        return introduced(reply, place)

    async def read_file(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        path: _File,
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
        as_bytes = wanted == "base64"
        return file_result(environment_id, name, read.data, part, as_bytes=as_bytes)

    async def list_files(
        self, ctx: Ctx, *, environment_id: EnvironmentId, path: _Directory = None
    ) -> Annotated[Reply, FileList]:
        """List a directory."""
        listing = await self._files.list(environment_id, path or None, owner=current_owner(ctx))
        return list_result(listing)

    async def search_files(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        path: _Root = None,
        name: _Name = None,
        content: _Line = None,
        regex: _Regex = False,
        ignore_case: _IgnoreCase = False,
        max_results: _MaxResults = DEFAULT_RESULTS,
        context_lines: _Context = 0,
        exclude: _SearchExclude = None,
    ) -> Annotated[Reply, SearchResult]:
        """Find files by name, and lines by content."""
        query = SearchQuery(
            path=parse_path(path or HOME),
            name=name or None,
            content=content or None,
            regex=regex,
            ignore_case=ignore_case,
            max_results=max_results,
            context_lines=context_lines,
            exclude=ALWAYS_SKIPPED if exclude is None else check_excludes(exclude),
        )
        found = await self._files.search(environment_id, query, owner=current_owner(ctx))
        return search_result(found)

    async def edit_file(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        path: _File,
        old_text: _Old,
        new_text: _New,
        replace_all: _All = False,
    ) -> Annotated[Reply, EditedFile]:
        """Replace text in a file."""
        target, edited = await self._files.edit(
            environment_id,
            path,
            old_text,
            new_text,
            owner=current_owner(ctx),
            replace_all=replace_all,
        )
        result = EditedFile(
            path=readable(target), replacements=edited.replacements, diff=edited.diff
        )
        times = "1 place" if result.replacements == 1 else f"{result.replacements} places"
        return success(result, f"Replaced {times} in {result.path}.\n{result.diff}")


def filesystem_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = FilesystemTools(services)
    return [
        make_tool(
            tools.write_file,
            title="Write a file",
            description="Write or replace a file. Makes missing directories.",
            annotations=SETTLES,
            meta=searchable("write, create or save a file in a sandbox"),
        ),
        make_tool(
            tools.read_file,
            title="Read a file",
            description="Read a file: text, an image, or base64. A long one comes in pages, by "
            "offset.",
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
        make_tool(
            tools.search_files,
            title="Search files",
            description="Find files by name, lines by content (grep), or both, below a directory.",
            annotations=READS,
            meta=searchable("find, grep or glob files in a sandbox"),
        ),
        make_tool(
            tools.edit_file,
            title="Edit a file",
            description="Replace text in a file; old_text must occur once, unless replace_all. "
            "Returns a diff.",
            annotations=CHANGES,
            meta=searchable("edit, patch or replace text in a file of a sandbox"),
        ),
    ]
