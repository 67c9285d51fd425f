# SPDX-License-Identifier: Apache-2.0
"""The tools that run programs: execute for code, run_command for a shell line or a program."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from waggle.domain.programs import parse_output
from waggle.domain.programs.job import parse_wait
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.context import Ctx, Phases, Services, apart, attend, current_owner
from waggle.mcp.observed import IdempotencyKey, introduced
from waggle.mcp.results import Reply
from waggle.mcp.results.images import Album, album_of, names_image, pictures_for, result_of
from waggle.mcp.results.jobs import CommandOutput
from waggle.mcp.schema import listed_as
from waggle.mcp.schema.parameters import (
    Background,
    Code,
    Cwd,
    Env,
    EnvironmentId,
    Images,
    MaxOutput,
    OptionalEnvironmentId,
    Seconds,
    Stdin,
    StdinOpen,
    Tty,
    UnlistedStdinOpen,
    User,
    Wait,
    parse_user,
    searchable,
)
from waggle.mcp.schema.tool import RUNS, OfferedTool, make_tool
from waggle.service.environments.creating import CreateRequest
from waggle.service.environments.provision import provided
from waggle.service.programs import Job
from waggle.service.programs.surroundings import Surroundings

_Runtime = Annotated[
    str | None,
    Field(
        description="Of a new environment; data is python with numpy, pandas, matplotlib etc.",
        json_schema_extra={"enum": [*RuntimeName]},
    ),
]
_Language = Annotated[
    str | None,
    Field(
        description="Default: the environment's.",
        json_schema_extra={"enum": ["python", "javascript", "shell"]},
    ),
]
_Context = Annotated[
    str | None,
    Field(
        description="Name of a live interpreter, e.g. main: later calls with it have its "
        "variables. Default: a new process."
    ),
]
_Command = Annotated[
    str | list[str],
    Field(
        description="A line for bash; a list is a program and its arguments.",
        json_schema_extra=listed_as(type="string"),
    ),
]


class ExecutionTools:
    """execute and run_command."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._files = services.filesystem
        self._execution = services.execution
        self._limits = services.execution_limits
        self._heartbeat = services.heartbeat
        self._albums = services.albums

    async def execute(
        self,
        ctx: Ctx,
        *,
        code: Code,
        environment_id: OptionalEnvironmentId = None,
        runtime: _Runtime = None,
        language: _Language = None,
        user: User = None,
        cwd: Cwd = None,
        env: Env = None,
        stdin: Stdin = "",
        stdin_open: UnlistedStdinOpen = False,
        tty: Tty = False,
        timeout_seconds: Seconds = None,
        wait_seconds: Wait = None,
        background: Background = False,
        max_output: MaxOutput = None,
        images: Images = None,
        context: _Context = None,
        idempotency_key: IdempotencyKey = None,  # used by `observed.once`
    ) -> Annotated[Reply, CommandOutput]:
        """Run code; a timeout is an error result that carries the output so far."""
        wait = self._wait(wait_seconds, background=background)
        shown = parse_output(max_output, self._limits.output)
        look = names_image(code) if images is None else images
        owner, who, phases = current_owner(ctx), parse_user(user), Phases(ctx, self._heartbeat)
        how = Surroundings(timeout_seconds, cwd or None, env or {}, stdin, stdin_open, tty)

        def new() -> CreateRequest:
            return CreateRequest(self._execution.runtime_for_code(code, language, runtime, how))

        async with provided(
            self._environments, environment_id, new, owner=owner, progress=phases.creating
        ) as place:
            if runtime and not place.is_new:
                self._execution.require_runtime(place.environment, runtime)
            album = await self._album(ctx, place.id, cwd) if look else None
            job = await self._execution.execute(
                place.id,
                code,
                owner=owner,
                language=language,
                user=who,
                how=how,
                context=context or None,
            )
            place.keep()
            self._remember(job, album, images)
            return introduced(await self._answer(ctx, job, wait, shown), place)

    async def run_command(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        command: _Command,
        user: User = None,
        cwd: Cwd = None,
        env: Env = None,
        stdin: Stdin = "",
        stdin_open: StdinOpen = False,
        tty: Tty = False,
        timeout_seconds: Seconds = None,
        wait_seconds: Wait = None,
        background: Background = False,
        max_output: MaxOutput = None,
        images: Images = None,
        idempotency_key: IdempotencyKey = None,  # used by `observed.once`
    ) -> Annotated[Reply, CommandOutput]:
        """Run a command; results as those of execute."""
        wait = self._wait(wait_seconds, background=background)
        shown = parse_output(max_output, self._limits.output)
        look = names_image(command) if images is None else images
        album = await self._album(ctx, environment_id, cwd) if look else None
        job = await self._execution.run_command(
            environment_id,
            command,
            owner=current_owner(ctx),
            user=parse_user(user),
            how=Surroundings(timeout_seconds, cwd or None, env or {}, stdin, stdin_open, tty),
        )
        self._remember(job, album, images)
        return await self._answer(ctx, job, wait, shown)

    def _wait(self, seconds: float | None, *, background: bool) -> float:
        return 0.0 if background else parse_wait(seconds, self._limits.wait)

    async def _album(self, ctx: Ctx, environment_id: str, cwd: str | None) -> Album | None:
        owner = current_owner(ctx)
        environment = self._environments.get(environment_id, owner=owner)
        directory = cwd or environment.directory
        return await album_of(self._files, environment.id, directory, owner=owner)

    def _remember(self, job: Job, album: Album | None, images: bool | None) -> None:
        """Note for this call and later ones whether the job's pictures are shown."""
        if album is not None or images is False:
            self._albums[job] = album

    async def _answer(self, ctx: Ctx, job: Job, wait: float, shown: int) -> Reply:
        view = await attend(ctx, job, wait, every=self._heartbeat, doing="running")
        pictures = await pictures_for(self._albums, job, view)
        result = partial(result_of, view, self._limits, shown=shown, pictures=pictures)
        return await apart(result, view.size)


def execution_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = ExecutionTools(services)
    return [
        make_tool(
            tools.execute,
            title="Run code",
            description=(
                "Run code or bash commands in a sandbox: an isolated Linux VM with Python, "
                "Node.js, a terminal and the internet. Returns stdout, stderr, the exit code, and "
                "as pictures what plt.show() draws. Files, packages and servers stay for the next "
                "calls in the same environment; variables and imports stay, as in a notebook, "
                'only for calls with the same context, e.g. "main".'
            ),
            annotations=RUNS,
            shows_pictures=True,
            meta={"anthropic/alwaysLoad": True},
        ),
        make_tool(
            tools.run_command,
            title="Run a command",
            description="Run a bash line, or a program with its arguments, in an environment. "
            "Otherwise as execute; servers and other long work belong in the background.",
            annotations=RUNS,
            shows_pictures=True,
            meta=searchable("run a shell or bash command in a sandbox terminal"),
        ),
    ]
