# SPDX-License-Identifier: Apache-2.0
"""The tools install_packages and run_code, and `Furniture`, the first contents of environments.

run_code does everything in one call: create an environment, write files, install packages, run the
code, destroy it. `Furniture` is the files and packages of a new environment; create_environment
uses it, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from pydantic import Field

from waggle.domain.access import Owner
from waggle.domain.errors import InvalidArgument
from waggle.domain.files import check_content, parse_path
from waggle.domain.network import Network
from waggle.domain.network.decisions import in_another
from waggle.domain.programs import parse_seconds
from waggle.domain.programs.job import JobState, JobView, parse_wait
from waggle.domain.programs.runtime import RuntimeName, encoded
from waggle.mcp.context import Ctx, Phases, Services, apart, current_owner, follow
from waggle.mcp.errors import Failure, clean
from waggle.mcp.observed import IdempotencyKey, introduced
from waggle.mcp.results import Reply, failed, success
from waggle.mcp.results.images import timeout_failure
from waggle.mcp.results.jobs import CommandOutput, RunOutput
from waggle.mcp.results.programs import command_output, command_text, job_shown, run_text
from waggle.mcp.schema.parameters import (
    Code,
    Files,
    ImageArgument,
    NetworkArgument,
    NewRuntime,
    OptionalEnvironmentId,
    OptionalPackages,
    Packages,
    RuntimeArgument,
    Stdin,
    Wait,
    parse_files,
    parse_reach,
    searchable,
)
from waggle.mcp.schema.tool import INSTALLS, RUNS, OfferedTool, make_tool
from waggle.service.environments.creating import CreateRequest
from waggle.service.environments.provision import provided
from waggle.service.programs import Job
from waggle.service.programs.surroundings import Surroundings


class PackageTools:
    """install_packages."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._execution = services.execution
        self._shown = services.execution_limits.output
        self._heartbeat = services.heartbeat

    async def install_packages(
        self,
        ctx: Ctx,
        *,
        packages: Packages,
        environment_id: OptionalEnvironmentId = None,
        runtime: NewRuntime = None,
        wait_seconds: Wait = None,
    ) -> Annotated[Reply, CommandOutput]:
        """Install packages; unlike with execute, a failing installer is an error.

        A cancelled call leaves the job running: the same call again waits for it.
        """
        wait = parse_wait(wait_seconds, math.inf)
        owner, phases = current_owner(ctx), Phases(ctx, self._heartbeat)

        def new() -> CreateRequest:
            return CreateRequest(self._execution.runtime_for_packages(packages, runtime))

        async with provided(
            self._environments, environment_id, new, owner=owner, progress=phases.creating
        ) as place:
            job = await self._execution.install(place.id, packages, owner=owner)
            place.keep()
            return introduced(await self._answer(ctx, job, wait), place)

    async def _answer(self, ctx: Ctx, job: Job, wait: float) -> Reply:
        view = await follow(ctx, job, wait, every=self._heartbeat, doing="installing")
        output, hints = await apart(partial(command_output, view, self._shown), view.size)
        if view.exit_code == 0 or view.is_running:
            return success(output, command_text, hints=hints)
        return failed(install_failure(view), output, command_text, hints)


def install_failure(view: JobView) -> Failure:
    """Return the failure of an installer; its output has the reason, or its diagnosis."""
    timed_out, found = view.state is JobState.TIMED_OUT, view.diagnosis
    hint = "The output above has the installer's reason; check the names and versions."
    if found is not None and found.code == "network_refused":
        hint = _REGISTRIES
    code = "timeout" if timed_out else "install_failed"
    return Failure(code, "The packages were not installed.", hint, retryable=timed_out)


_REGISTRIES = (
    "Its connections were refused, as the diagnosis says. In a network's rules, @packages stands "
    "for the package indexes of the image."
)


def package_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    return [
        make_tool(
            PackageTools(services).install_packages,
            title="Install packages",
            description="Install packages: from PyPI (pip) for python, npm for node, the "
            "distribution (apt) for shell.",
            annotations=INSTALLS,
            meta=searchable("pip install, npm install or apt install in a sandbox"),
        )
    ]


MAX_FILES = 20


@dataclass(frozen=True, slots=True)
class Furniture:
    """Files by path, and packages as the client named them. Make it with `furniture`."""

    files: Mapping[str, bytes]
    packages: str | Sequence[str]

    async def bring(
        self, services: Services, environment_id: str, phases: Phases, *, owner: Owner
    ) -> JobView | None:
        """Write the files, then install; return how the installer ended if one ran.

        Raises FileRefused, NotFound, NotRunning, GuestLost or TooManyJobs.
        """
        for path, data in self.files.items():
            await phases.say(f"writing {clean(path, 60)}")
            await services.filesystem.write(environment_id, path, data, owner=owner)
        if not self.packages:
            return None
        job = await services.execution.install(environment_id, self.packages, owner=owner)
        return await phases.attend(job, "installing")


def furniture(
    files: Mapping[str, str], packages: str | Sequence[str] | None, network: Network
) -> Furniture:
    """Check files and packages before there is a guest. Raises InvalidArgument or TooLarge."""
    if len(files) > MAX_FILES:
        raise InvalidArgument(
            f"At most {MAX_FILES} files can be written.",
            hint="Write the others with write_file; upload_files takes many at once.",
        )
    if packages and network.is_none:
        raise InvalidArgument(
            "Packages cannot be installed without a network.",
            hint="Give network 'public', or an image with the packages.",
        )
    contents = {
        parse_path(path): check_content(encoded(text, "A file's content"))
        for path, text in files.items()
    }
    return Furniture(contents, packages or ())


_Seconds = Annotated[float | None, Field(description="Kill it after so long. Default 30.")]


def _again(items: Sequence[str]) -> str:
    return f"run_code with network {json.dumps([*items])} opens it."


class RunTools:
    """run_code."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._execution = services.execution
        self._services = services
        self._limits = services.execution_limits
        self._heartbeat = services.heartbeat

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
        idempotency_key: IdempotencyKey = None,  # used by `observed.once`
    ) -> Annotated[Reply, RunOutput]:
        """Run code in an environment of its own, which is always destroyed at the end."""
        request = CreateRequest(
            RuntimeName.parse(runtime), image=image or None, network=parse_reach(network)
        )
        policy = self._environments.limits.network_of(request)
        brought = furniture(parse_files(files), packages, policy)
        seconds = parse_seconds(timeout_seconds, self._limits.wait, self._limits.max_timeout)
        how = Surroundings(seconds, stdin=stdin)
        self._execution.check(code, request.runtime, how, packages=packages or ())
        owner = current_owner(ctx)
        phases = Phases(ctx, self._heartbeat)
        async with self._environments.temporary(
            request, owner=owner, progress=phases.creating
        ) as environment:
            view = await brought.bring(self._services, environment.id, phases, owner=owner)
            if view is not None and view.exit_code != 0:
                return await self._result(view, policy, "install", install_failure(view))
            job = await self._execution.execute(environment.id, code, owner=owner, how=how)
            view = await phases.attend(job, "running")
            await phases.say("destroying the environment")
            failure = None
            if view.state is JobState.TIMED_OUT:
                longer = "; with create_environment and execute, long work runs as a job."
                failure = timeout_failure(view, self._limits.max_timeout, longer)
            return await self._result(view, policy, "run", failure)

    async def _result(
        self, view: JobView, network: Network, phase: str, failure: Failure | None
    ) -> Reply:
        """Return the output as execute does, without links and steps into what is destroyed."""
        if view.diagnosis is not None:
            step = in_another(view.diagnosis.next_step, network, _again)
            view = replace(view, diagnosis=replace(view.diagnosis, next_step=step))
        shown = partial(
            job_shown, view, self._limits.output, pictures=failure is None, linked=False
        )
        made = await apart(shown, view.size)
        given = made.output.model_dump(include=set(RunOutput.model_fields))
        result = RunOutput(phase=phase, **given)
        if failure is None:
            return success(result, run_text, also=made.pictures)
        return failed(failure, result, run_text)


def run_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    return [
        make_tool(
            RunTools(services).run_code,
            title="Run code once",
            description="Run one program in a new environment that is destroyed at once, with all "
            "files. For more than one call use execute.",
            annotations=RUNS,
            shows_pictures=True,
            meta=searchable("run a program once in a throw-away sandbox"),
        )
    ]
