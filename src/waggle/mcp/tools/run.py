# SPDX-License-Identifier: Apache-2.0
"""The tool that does everything in one call: an environment, files, packages, a run, the end."""

from __future__ import annotations

from typing import Annotated

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.programs.execution import parse_seconds
from waggle.domain.programs.job import JobState, JobView
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.errors import Failure, failure_result
from waggle.mcp.repeats import IdempotencyKey
from waggle.mcp.results.environments import success
from waggle.mcp.results.jobs import RunOutput
from waggle.mcp.results.output import command_output, ending, printed
from waggle.mcp.results.progress import Phases
from waggle.mcp.schema.creation import (
    ImageArgument,
    NetworkArgument,
    RuntimeArgument,
    parse_network,
)
from waggle.mcp.schema.parameters import (
    Code,
    Files,
    OptionalPackages,
    Stdin,
    parse_files,
    searchable,
)
from waggle.mcp.schema.tool import OfferedTool, make_tool
from waggle.mcp.tools.furnish import furniture
from waggle.mcp.tools.packages import install_failure
from waggle.service.environments.creating import CreateRequest
from waggle.service.programs.execution import Surroundings

_Seconds = Annotated[float | None, Field(description="Kill it after so long. Default 30.")]


class RunTools:
    """run_code."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._execution = services.execution
        self._services = services
        self._limits = services.execution_limits
        self._heartbeat = services.heartbeat
        self._offer = services.offer

    async def run_code(
        self,
        ctx: Ctx,
        *,
        code: Code,
        runtime: RuntimeArgument = RuntimeName.PYTHON.value,
        packages: OptionalPackages = None,
        files: Files = None,
        stdin: Stdin = "",
        timeout_seconds: _Seconds = None,
        network: NetworkArgument = None,
        image: ImageArgument = None,
        idempotency_key: IdempotencyKey = None,  # `mcp.repeats` heeds it
    ) -> Annotated[CallToolResult, RunOutput]:
        """Run code in an environment of its own, which is gone when this ends, however it ends."""
        request = CreateRequest(
            RuntimeName.parse(runtime), image=image or None, network=parse_network(network)
        )
        policy = self._environments.limits.network_of(request)
        brought = furniture(parse_files(files), packages, policy)
        seconds = parse_seconds(timeout_seconds, self._limits.wait, self._limits.max_timeout)
        how = Surroundings(seconds, stdin=stdin)
        self._execution.check(code, request.runtime, packages or (), how)
        owner = current_owner(ctx)
        phases = Phases(ctx, self._heartbeat)
        async with self._environments.temporary(
            request, owner=owner, progress=phases.creating
        ) as environment:
            view = await brought.bring(self._services, environment.id, phases, owner=owner)
            if view is not None and view.exit_code != 0:
                failure = install_failure(timed_out=view.state is JobState.TIMED_OUT)
                return self._result(view, "install", failure)
            job = await self._execution.execute(environment.id, code, owner=owner, how=how)
            view = await phases.attend(job, "running")
            await phases.say("destroying the environment")
            return self._result(view, "run", _failure(view, self._limits.max_timeout))

    def _result(self, view: JobView, phase: str, failure: Failure | None) -> CallToolResult:
        """The output as of execute, without what points to an environment that is gone."""
        output = command_output(view, self._offer, self._limits.output)
        text = "\n".join([*printed(output), ending(output)])
        given = output.model_dump(include=set(RunOutput.model_fields))
        result = RunOutput(phase=phase, **given)
        if failure is None:
            return success(result, text)
        return failure_result(failure, self._offer, before=text, structured=result)


def _failure(view: JobView, longest: float) -> Failure | None:
    if view.state is JobState.TIMED_OUT:
        return Failure(
            "timeout",
            f"The program ran into its timeout and was killed after {view.duration:.1f} s.",
            f"Give a larger timeout_seconds (at most {longest:g}); with create_environment "
            "and execute, long work goes on as a job.",
        )
    return None


def run_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    return [
        make_tool(
            RunTools(services).run_code,
            title="Run code once",
            description="Run one program in a new environment that is destroyed at once, with all "
            "files. For more than one call use execute.",
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=False,
                idempotent_hint=False,
                open_world_hint=True,
            ),
            meta=searchable("run a program once in a throw-away sandbox"),
        )
    ]
