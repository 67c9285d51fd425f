# SPDX-License-Identifier: Apache-2.0
"""The tools that find places in files and change them: search_files and edit_file."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.execution import HOME
from waggle.domain.filesystem import MAX_FILE_BYTES, parse_path
from waggle.domain.search import (
    ALWAYS_SKIPPED,
    DEFAULT_RESULTS,
    MAX_CONTEXT,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_PATTERN,
    MAX_RESULTS,
    SEARCH_SECONDS,
    SearchQuery,
    check_excludes,
)
from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.file_results import EditedFile, SearchResult
from waggle.mcp.results import readable, success
from waggle.mcp.tools.found import search_result
from waggle.mcp.tools.parameters import EnvironmentId

_Root = Annotated[
    str | None, Field(description=f"Where to search: a directory or a file. Default {HOME}.")
]
_Name = Annotated[
    str | None,
    Field(
        max_length=MAX_PATTERN,
        description="Glob for names, as '*.py'; with a slash for paths below path, as "
        "'src/**/test_*.py'. Also {a,b}, [ab] and ?.",
    ),
]
_Content = Annotated[
    str | None,
    Field(max_length=MAX_PATTERN, description="Text that a line holds, as it is unless regex."),
]
_Regex = Annotated[
    bool,
    Field(
        description="content is a POSIX extended regular expression, with \\d, \\w, \\s and \\b; "
        "no lookaround, no lazy repetition."
    ),
]
_IgnoreCase = Annotated[bool, Field(description="Capital and small letters are the same.")]
_MaxResults = Annotated[int, Field(ge=1, le=MAX_RESULTS, description="Stop after so many matches.")]
_Context = Annotated[
    int, Field(ge=0, le=MAX_CONTEXT, description="Lines to show before and after each match.")
]
_SearchExclude = Annotated[
    list[str] | None,
    Field(
        description="Globs of files and directories to leave out. Default: "
        f"{', '.join(ALWAYS_SKIPPED)}; [] leaves out nothing."
    ),
]
_File = Annotated[str, Field(description=f"A text file; relative to {HOME}.")]
_Old = Annotated[
    str,
    Field(
        min_length=1,
        description="What to replace: exactly as in the file, white space included, with enough "
        "around it to stand there only once.",
    ),
]
_New = Annotated[str, Field(description="What to put there.")]
_All = Annotated[bool, Field(description="Replace every place where old_text stands.")]


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
    ) -> Annotated[CallToolResult, SearchResult]:
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
    ) -> Annotated[CallToolResult, EditedFile]:
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
            path=readable(target),
            replacements=edited.replacements,
            first_line=edited.first_line,
            size=len(edited.data),
            diff=edited.diff,
        )
        times = "1 place" if result.replacements == 1 else f"{result.replacements} places"
        return success(result, f"Replaced {times} in {result.path}.\n{result.diff}")


def search_tools(services: Services) -> list[Tool]:
    """The tools of this module."""
    tools = SearchTools(services)
    return [
        make_tool(
            tools.search_files,
            title="Search files",
            description=(
                "Find files by name, lines by content, or lines in files of such a name, below a "
                "directory. Works in every image. Links are not followed; binary files and files "
                f"over {MAX_FILE_BYTES:,} bytes are not searched. Ends early after "
                f"{SEARCH_SECONDS} s, {MAX_ENTRIES:,} entries or {MAX_DEPTH} levels, and says so.\n"
                'Example: {"environment_id": "...", "name": "*.toml"} or '
                '{"environment_id": "...", "path": "src", "content": "def main", "name": "*.py"} '
                'or {"environment_id": "...", "content": "TODO|FIXME", "regex": true, '
                '"context_lines": 2}'
            ),
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        ),
        make_tool(
            tools.edit_file,
            title="Edit a file",
            description=(
                "Replace text in a file: old_text must stand there exactly once, unless "
                "replace_all. Returns a diff. Keeps the file's mode; refuses binary files and "
                f"files over {MAX_FILE_BYTES:,} bytes.\n"
                'Example: {"environment_id": "...", "path": "src/app.py", "old_text": '
                '"DEBUG = True", "new_text": "DEBUG = False"}'
            ),
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=True,
                idempotent_hint=False,
                open_world_hint=False,
            ),
        ),
    ]
