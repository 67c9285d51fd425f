# SPDX-License-Identifier: Apache-2.0
"""Result models of the tools for an environment's state, lifetime and ports. Pure.

Called by `waggle.mcp.tools`; `waggle.mcp.results` has the form of all results.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, Field

from waggle.domain.environment import State
from waggle.domain.exposure import ExposedPort
from waggle.domain.programs import HOME
from waggle.domain.programs.job import JobBrief
from waggle.mcp.results import NOTE, readable, rfc3339
from waggle.mcp.results.environments import (
    NETWORK,
    NOTICE,
    ON_DISK,
    PUBLIC,
    STATUSES,
    UNUSED,
    on_disk_until,
)
from waggle.mcp.results.guest import LOST, GuestSays, guest_lines, guest_says
from waggle.mcp.results.jobs import (
    JobItem,
    LeftItem,
    job_item,
    job_line,
    left_items,
    left_lines,
)
from waggle.mcp.results.network import NetworkUseItem, network_lines, network_use_item
from waggle.service.environments.registry import Inspection
from waggle.service.programs.leftovers import LeftList

MOST_RUNNING = 20
"""The most running jobs in the state of an environment."""


class PortItem(BaseModel):
    """An exposed port."""

    port: int = Field(description="The port in the environment.")
    url: str = Field(description="Where it answers on the server's machine.")


class EnvironmentState(BaseModel):
    """One environment now."""

    environment_id: str
    name: str
    runtime: str
    image: str = Field(description="The image that it was booted from.")
    status: str = Field(description=STATUSES)
    error: str = Field(default="", description="Why it is in the error status.")
    network: str = Field(default=PUBLIC, description=NETWORK)
    hypervisor: str = Field(default="", description="What runs it, if not the usual one.")
    working_directory: str = Field(
        default=HOME, description=f"Where programs start; {HOME} unless given."
    )
    created_at: str = Field(description="RFC 3339.")
    age_seconds: int = 0
    timeout: str = Field(description=UNUSED)
    idle_seconds_left: int = Field(default=0, description="Until then, if nothing uses it.")
    expires_at: str = Field(default="", description="RFC 3339; not while a call or a job runs.")
    on_disk_until: str = Field(default="", description=ON_DISK)
    notice: str = Field(default="", description=NOTICE)
    running_jobs: int = 0
    jobs: list[JobItem] = Field(
        default_factory=list[JobItem],
        description=f"Those that run or are paused, newest first; at most {MOST_RUNNING}.",
    )
    cpus: int = Field(description="Virtual processors it may use.")
    memory_bytes: int = Field(description="Memory it may use.")
    disk_bytes: int = Field(description="Size of its writable disk.")
    cpu_seconds_used: float = Field(default=0.0, description="Processor time so far.")
    memory_bytes_used: int = Field(default=0, description="Memory of the host it holds now.")
    disk_bytes_used: int = Field(default=0, description="Disk of the host it takes now.")
    env: list[str] = Field(
        default_factory=list[str], description="Names of the variables that it was created with."
    )
    packages: list[str] = Field(
        default_factory=list[str], description="Packages that it was created with."
    )
    ports: list[PortItem] = Field(
        default_factory=list[PortItem], description="Ports that expose_port opened."
    )
    left_running: list[LeftItem] = Field(
        default_factory=list[LeftItem],
        description="Programs that ended calls left running in the background.",
    )
    network_use: NetworkUseItem | None = Field(
        default=None, description="Its connections so far, if there were any."
    )
    guest_says: GuestSays | None = Field(default=None, description="What it says of itself now.")
    ssh_port: int = Field(
        default=0, description="TCP port on the server's 127.0.0.1 (for operators)."
    )


class ExtendedEnvironment(BaseModel):
    """How long an environment may now stay unused."""

    name: str
    timeout: str = Field(description=UNUSED)
    expires_at: str = Field(description="RFC 3339; when that is, if nothing uses it before.")


class ChangedNetwork(BaseModel):
    """What an environment may reach now."""

    network: str
    closed_connections: int = Field(
        default=0, description="Open connections that no longer fitted, and were closed."
    )
    note: str = Field(default="", description=NOTE)


class OpenedPort(BaseModel):
    """A port that can be reached."""

    port: int
    url: str = Field(description="Where it answers on the server's machine.")
    public_url: str = Field(default="", description="Where it answers for others; give them this.")
    public_until: str = Field(default="", description="RFC 3339; when public_url ends.")
    listening: bool = Field(default=False, description="A program accepts connections there.")
    note: str = Field(default="", description=NOTE)


def opened_port(
    exposed: ExposedPort, *, listening: bool, note: str, public: str, until: datetime | None
) -> tuple[OpenedPort, str]:
    """Return the result of expose_port, and its text."""
    ends = "" if until is None else rfc3339(until)
    result = OpenedPort(
        port=exposed.port,
        url=exposed.url,
        public_url=public,
        public_until=ends,
        listening=listening,
        note=note,
    )
    text = f"Port {exposed.port} is at {exposed.url} on the server's machine."
    if public:
        text += f" For others it is at {public}{f' until {ends}' if ends else ''}."
    return result, text


class ClosedPort(BaseModel):
    """A port that can no longer be reached."""

    port: int
    was_exposed: bool = False


def in_minutes(time: timedelta) -> str:
    """Return whole minutes, as `30m`."""
    return f"{int(time.total_seconds()) // 60}m"


def environment_state(
    found: Inspection, running: Sequence[JobBrief], left: LeftList
) -> EnvironmentState:
    """Return the result of get_environment."""
    environment, use = found.environment, found.resource_use
    return EnvironmentState(
        environment_id=environment.id,
        name=environment.name,
        runtime=environment.runtime.value,
        image=readable(environment.image),
        status=environment.state.value,
        error=environment.error or "",
        network=str(environment.network),
        hypervisor=found.hypervisor,
        working_directory=readable(environment.directory),
        created_at=rfc3339(environment.created_at),
        age_seconds=int((found.now - environment.created_at).total_seconds()),
        timeout=in_minutes(environment.idle_timeout),
        idle_seconds_left=int(found.idle_left.total_seconds()),
        expires_at="" if found.is_busy else rfc3339(environment.expires_at()),
        on_disk_until=on_disk_until(environment),
        notice=_notice(found),
        running_jobs=len(running),
        jobs=[job_item(job) for job in running[: -MOST_RUNNING - 1 : -1]],
        cpus=environment.resources.cpus,
        memory_bytes=environment.resources.memory_mib << 20,
        disk_bytes=environment.resources.disk_mib << 20,
        cpu_seconds_used=round(use.cpu_seconds, 2) if use else 0.0,
        memory_bytes_used=use.memory_bytes or 0 if use else 0,
        disk_bytes_used=use.disk_bytes or 0 if use else 0,
        env=[*environment.variables],
        packages=[*environment.packages],
        ports=[PortItem(port=exposed.port, url=exposed.url) for exposed in found.ports],
        left_running=left_items(left),
        network_use=network_use_item(found.network_use, found.now),
        guest_says=guest_says(found.said),
        ssh_port=environment.ssh_port or 0,
    )


def state_text(state: EnvironmentState, fate: str) -> str:
    """Return the text form, in a few lines. `fate` is the end of an unused environment."""
    memory, disk = _mib(state.memory_bytes), _mib(state.disk_bytes)
    amounts = [
        # The hypervisor's own memory is among it, so it is no part of the machine's.
        f"memory {memory} ({_mib(state.memory_bytes_used)} of the host's)"
        if state.memory_bytes_used
        else f"memory {memory}",
        f"disk {_mib(state.disk_bytes_used)} of {disk}"
        if state.disk_bytes_used
        else f"disk {disk}",
    ]
    amounts += [f"{state.cpu_seconds_used:g} s of CPU"] if state.cpu_seconds_used else []
    where = f", on {state.hypervisor}" if state.hypervisor else ""
    where += (
        "" if state.working_directory == HOME else f", programs start in {state.working_directory}"
    )
    lines = [
        f"{state.environment_id} {state.name} ({state.runtime}, {state.image}, network "
        f"{state.network}{where}): {state.status}" + (f": {state.error}" if state.error else ""),
        f"created {state.created_at}, {state.age_seconds} s old, {state.running_jobs} jobs running;"
        f" {_fate(state, fate)}",
        f"{state.cpus} CPU, {', '.join(amounts)}",
        *([state.notice] if state.notice else []),
        *([f"env: {', '.join(state.env)}"] if state.env else []),
        *([f"packages: {' '.join(state.packages)}"] if state.packages else []),
        *(f"port {item.port}: {item.url}" for item in state.ports),
        *(f"job {job_line(item)}" for item in state.jobs),
        *([f"ssh port {state.ssh_port}"] if state.ssh_port else []),
        *left_lines(state.left_running),
        *network_lines(state.network_use),
        *guest_lines(state.guest_says),
    ]
    return "\n".join(lines) if state.status != State.CREATING else lines[0]


def _notice(found: Inspection) -> str:
    said = found.environment.notice or ""
    return f"{said} {LOST}".strip() if found.is_agent_lost else said


def _fate(state: EnvironmentState, fate: str) -> str:
    if state.on_disk_until:
        return f"kept on the disk until {state.on_disk_until}, and any call resumes it"
    resumes = ", and any call resumes it" if state.status == State.PAUSED else ""
    when = f", at {state.expires_at}" if state.expires_at else ""
    return (
        f"{fate} after {state.timeout} without a call, {state.idle_seconds_left} s from now"
        f"{when}{resumes}"
    )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
