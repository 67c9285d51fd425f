# SPDX-License-Identifier: Apache-2.0
"""The tools that create, list, show, extend and destroy environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from waggle.domain.environment import Environment, parse_grace
from waggle.domain.host import Progress
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs import HOME
from waggle.domain.programs.job import JobView
from waggle.domain.programs.runtime import parse_own_variables
from waggle.domain.snapshot import Snapshot
from waggle.mcp.context import Ctx, PassedOn, Phases, Services, apart, current_owner, reporter
from waggle.mcp.observed import IdempotencyKey, introduced
from waggle.mcp.results import Reply, failed, rfc3339, success
from waggle.mcp.results.environments import (
    CreatedEnvironment,
    DestroyedEnvironment,
    EnvironmentList,
    created,
    on_disk_until,
    summary,
)
from waggle.mcp.results.programs import command_output, command_text
from waggle.mcp.results.state import (
    EnvironmentState,
    ExtendedEnvironment,
    environment_state,
    in_minutes,
    state_text,
)
from waggle.mcp.schema.parameters import (
    CpusArgument,
    DiskArgument,
    Env,
    EnvironmentId,
    Files,
    GraceArgument,
    ImageArgument,
    MemoryArgument,
    MinutesArgument,
    MoreMinutesArgument,
    NameArgument,
    NetworkArgument,
    OptionalPackages,
    OptionalRuntimeArgument,
    SecretsArgument,
    SnapshotArgument,
    SnapshotsArgument,
    parse_files,
    parse_reach,
    parse_secrets,
    require_fitting,
    searchable,
)
from waggle.mcp.schema.tool import CHANGES, DESTROYS, READS, SETTLES, OfferedTool, make_tool
from waggle.mcp.tools.run import furniture, install_failure
from waggle.service.environments.creating import CopyRequest, CreateRequest
from waggle.service.environments.provision import Place, end_unless_used, lasting

_NamePart = Annotated[str | None, Field(description="Only those whose name has this in it.")]
_NONE = "There is no environment. Use create_environment to make one."


@dataclass(frozen=True, slots=True)
class _Made:
    """A new environment, and how the installer ended if one ran."""

    environment: Environment
    installed: JobView | None
    place: Place


class EnvironmentTools:
    """The tools of this module."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._services = services
        self._jobs = services.jobs
        self._snapshots = services.snapshots

    async def create_environment(
        self,
        ctx: Ctx,
        *,
        runtime: OptionalRuntimeArgument = None,
        name: NameArgument = None,
        packages: OptionalPackages = None,
        files: Files = None,
        env: Env = None,
        cpus: CpusArgument = None,
        memory_mb: MemoryArgument = None,
        disk_mb: DiskArgument = None,
        network: NetworkArgument = None,
        timeout_minutes: MinutesArgument = None,
        image: ImageArgument = None,
        snapshot: SnapshotArgument = None,
        secrets: SecretsArgument = None,
        snapshots: SnapshotsArgument = False,
        idempotency_key: IdempotencyKey = None,
    ) -> Annotated[Reply, CreatedEnvironment]:
        """Create an environment.

        A cancelled call continues for a while, for the same call again; see `unclaimed`.
        """
        owner, policy = current_owner(ctx), parse_reach(network)
        variables = parse_own_variables(env or {})
        known = self._snapshots.get(snapshot, owner=owner) if snapshot else None
        if known:
            require_fitting(known, runtime, image, cpus, memory_mb, disk_mb)
        held = parse_secrets(secrets, known)
        kind = known.runtime if known else self._environments.limits.runtime_of(runtime)
        install = self._services.execution.names_to_install
        names = install(packages, kind) if packages else ()
        common = (name or None, timeout_minutes, policy)
        if known:
            request, reach = CopyRequest(*common, variables, names), policy or known.network
            create = partial(self._snapshots.create, known.id, request, owner=owner)
        else:
            size = (cpus, memory_mb, disk_mb)
            request = CreateRequest(
                *(kind, image or None, *common, *size, variables, names, held, snapshots)
            )
            reach = self._environments.limits.network_of(request)
            create = partial(self._environments.create, request, owner=owner)
        brought = furniture(parse_files(files), packages, reach)
        furnished = bool(packages or files)

        async def make(report: Progress) -> _Made:
            phases = Phases(PassedOn(report), self._services.heartbeat)
            made = await create(progress=phases.creating if furnished else report)
            async with lasting(self._environments, made) as place:
                installed = await brought.bring(self._services, place.id, phases, owner=owner)
                place.keep()
            return _Made(self._environments.get(made.id, owner=owner), installed, place)

        made = await self._environments.unclaimed.take_up(
            owner,
            (snapshot, request, brought, idempotency_key),
            make,
            reporter(ctx, None if furnished else 1.0),
            undo=lambda made: end_unless_used(self._environments, made.environment),
        )
        return await self._created(made, names, known)

    async def _created(self, made: _Made, names: Sequence[str], known: Snapshot | None) -> Reply:
        begin = f"starts from snapshot {known.name}" if known else "is running"
        result = created(made.environment, names if made.installed else ())
        text = (
            f"Environment {result.environment_id} ({result.name}, {_kind(made.environment)}) "
            f"{begin}; {self._services.when_unused(made.environment)} after {result.timeout} "
            f"without a call."
            f"{_start(result.working_directory)}{_holding(result.secrets)}"
            f"{' ' * bool(result.notice)}{result.notice}"
        )
        if made.installed is None:
            return success(result, text)
        if made.installed.exit_code == 0:
            return success(result, f"{text} Installed: {' '.join(names)}.")
        failed_one = partial(self._not_installed, made.installed)
        return introduced(await apart(failed_one, made.installed.size), made.place)

    def _not_installed(self, view: JobView) -> Reply:
        """Return the error of install_packages; the environment exists."""
        output, hints = command_output(view, self._services.execution_limits.output)
        return failed(install_failure(view), output, command_text, hints)

    async def list_environments(
        self, ctx: Ctx, *, name: _NamePart = None
    ) -> Annotated[Reply, EnvironmentList]:
        """List the caller's environments."""
        listed = self._environments.list(owner=current_owner(ctx))
        environments = [environment for environment in listed if (name or "") in environment.name]
        # Without models, which would take half of the time of this frequent call.
        if not environments:
            return success(EnvironmentList(note=_NONE))
        result = {
            "environments": [summary(environment) for environment in environments],
            "count": len(environments),
        }
        return success(result, "\n".join(_line(environment) for environment in environments))

    async def destroy_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, grace_seconds: GraceArgument = 0
    ) -> Annotated[Reply, DestroyedEnvironment]:
        """End an environment."""
        owner, grace = current_owner(ctx), parse_grace(grace_seconds)
        environment = await self._environments.destroy(environment_id, owner=owner, grace=grace)
        result = DestroyedEnvironment(name=environment.name, status=environment.state.value)
        return success(result, f"Environment {result.name} is {result.status}.")

    async def get_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[Reply, EnvironmentState]:
        """Return its state; not a use of it."""
        owner = current_owner(ctx)
        found = await self._environments.inspect(environment_id, owner=owner)
        left = await self._jobs.left.look(environment_id, owner=owner, always=False)
        state = environment_state(found, self._jobs.going(found.environment.id), left)
        return success(state, state_text(state, self._services.when_unused(found.environment)))

    async def extend_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, minutes: MoreMinutesArgument
    ) -> Annotated[Reply, ExtendedEnvironment]:
        """Set its idle time and restart it."""
        owner = current_owner(ctx)
        environment = await self._environments.extend(environment_id, minutes, owner=owner)
        result = ExtendedEnvironment(
            name=environment.name,
            timeout=in_minutes(environment.idle_timeout),
            expires_at=rfc3339(environment.expires_at()),
        )
        return success(
            result,
            f"Environment {result.name} is {self._services.when_unused(environment)} after "
            f"{result.timeout} without a call: at {result.expires_at} if none comes.",
        )


def _start(directory: str) -> str:
    """Return a sentence for images with a working directory of their own."""
    if directory == HOME:
        return ""
    return f" Programs start in {directory}; relative paths of the file tools count from {HOME}."


def _line(environment: Environment) -> str:
    why = f": {environment.error}" if environment.error else ""
    until = on_disk_until(environment)
    return (
        f"{environment.id} {environment.name} ({_kind(environment)}) {environment.state}{why}, "
        f"created {rfc3339(environment.created_at)}"
        + (f", on the disk until {until}" if until else "")
        + (f". {environment.notice}" if environment.notice else "")
    )


def _holding(secrets: Sequence[str]) -> str:
    """Say how programs use secrets."""
    listed = "; ".join(f"${one}" for one in secrets)
    return f" Use as if it were the secret, and nowhere else: {listed}." if secrets else ""


def _kind(environment: Environment) -> str:
    network = "" if environment.network == PUBLIC_NETWORK else f", network {environment.network}"
    return f"{environment.runtime}{network}"


def environment_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = EnvironmentTools(services)
    return [
        make_tool(
            tools.create_environment,
            title="Create an environment",
            description=(
                "Create an environment: an isolated Linux VM (sandbox), ready in seconds. Files, "
                "packages and programs stay in it until it is destroyed or unused for long."
            ),
            annotations=CHANGES,
            meta=searchable("create a sandbox, container or virtual machine to run code in"),
        ),
        make_tool(
            tools.list_environments,
            title="List environments",
            description="List your environments (sandboxes), with ids and status.",
            annotations=READS,
            meta=searchable("list sandboxes that exist"),
        ),
        make_tool(
            tools.destroy_environment,
            title="Destroy an environment",
            description="Destroy an environment with everything in it, when the work is done.",
            annotations=DESTROYS,
            meta=searchable("delete or stop a sandbox"),
        ),
        make_tool(
            tools.get_environment,
            title="Look at an environment",
            description="Show an environment's state, remaining time, running jobs, exposed ports "
            "and resources. Does not count as use.",
            annotations=READS,
            meta=searchable("status, memory, disk and ports of a sandbox"),
        ),
        make_tool(
            tools.extend_environment,
            title="Keep an environment longer",
            description="Set for how many minutes an environment may stay unused.",
            annotations=SETTLES,
            meta=searchable("keep a sandbox alive for longer"),
        ),
    ]
