# SPDX-License-Identifier: Apache-2.0
"""The tools that search and edit files: search_files and edit_file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from waggle.domain.files import parse_path
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
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.results import Reply, readable, success
from waggle.mcp.results.files import EditedFile, SearchResult
from waggle.mcp.results.listings import search_result
from waggle.mcp.schema.parameters import EnvironmentId, searchable
from waggle.mcp.schema.tool import CHANGES, READS, OfferedTool, make_tool

_Root = Annotated[str | None, Field(description=f"Directory or file. Default {HOME}.")]
_Name = Annotated[
    str | None, Field(max_length=MAX_PATTERN, description="Glob, as *.py or src/**/test_*.py.")
]
_Content = Annotated[str | None, Field(max_length=MAX_PATTERN, description="What a line holds.")]
_Regex = Annotated[bool, Field(description="content is a POSIX extended regular expression.")]
_IgnoreCase = Annotated[bool, Field()]
_MaxResults = Annotated[int, Field(ge=1, le=MAX_RESULTS)]
_Context = Annotated[
    int, Field(ge=0, le=MAX_CONTEXT, description="Lines shown before and after each.")
]
_SearchExclude = Annotated[
    list[str] | None,
    Field(description=f"Globs to leave out. Default: {', '.join(ALWAYS_SKIPPED)}."),
]
_File = Annotated[str, Field(description=f"Relative to {HOME}.")]
_Old = Annotated[str, Field(min_length=1, description="Exactly as in the file.")]
_New = Annotated[str, Field()]
_All = Annotated[bool, Field()]


class SearchTools:
    """search_files and edit_file."""

    def __init__(self, services: Services) -> None:
        self._files = services.filesystem

    async def search_files(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        path: _Root = None,
        name: _Name = None,
        content: _Content = None,
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


def search_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = SearchTools(services)
    return [
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
