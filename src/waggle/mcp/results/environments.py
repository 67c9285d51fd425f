# SPDX-License-Identifier: Apache-2.0
"""Result models of the tools that create, list and destroy environments. Pure.

Called by `waggle.mcp.tools`, `resources.read` and the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from waggle.domain.environment import Environment
from waggle.domain.machine import NetworkPolicy
from waggle.domain.programs import HOME
from waggle.mcp.results import NOTE, readable, rfc3339
from waggle.mcp.schema.outputs import in_words

PUBLIC = NetworkPolicy.PUBLIC.value
UNUSED = "Unused for so long, e.g. 30m, it is paused to disk or, as the server has it, destroyed."
STATUSES = "creating, running, paused, resuming, destroying or error."
NETWORK = "none, or public unless told."
NOTICE = "What to know of it now, e.g. why it stands still in memory and not on the disk."
ON_DISK = "RFC 3339; how long it is kept while it is paused to disk."


class EnvironmentSummary(BaseModel):
    """An environment in a list."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str = Field(description="What people call it; need not be unique.")
    runtime: str = Field(description="python, node, shell or data.")
    status: str = Field(description=STATUSES)
    network: str = Field(default=PUBLIC, description=NETWORK)
    created_at: str = Field(description="RFC 3339.")
    error: str = Field(default="", description="Why it is in the error status.")
    on_disk_until: str = Field(default="", description=ON_DISK)
    notice: str = Field(default="", description=NOTICE)


class CreatedEnvironment(BaseModel):
    """A new, running environment."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str
    runtime: str
    status: str
    network: str = Field(default=PUBLIC, description=NETWORK)
    working_directory: str = Field(
        default=HOME, description=f"Where programs start; {HOME} unless told."
    )
    timeout: str = Field(description=UNUSED)
    installed: list[str] = Field(default_factory=list[str], description="Its packages.")


class EnvironmentList(BaseModel):
    """All environments of the caller, oldest first."""

    environments: list[
        Annotated[EnvironmentSummary, WithJsonSchema(in_words(EnvironmentSummary))]
    ] = Field(default_factory=list[EnvironmentSummary])
    count: int = 0
    note: str = Field(default="", description=NOTE)


class DestroyedEnvironment(BaseModel):
    """The end of an environment."""

    name: str
    status: str


def on_disk_until(environment: Environment) -> str:
    """Return the time until which an environment is kept on disk; empty unless paused to disk."""
    return "" if environment.paused_until is None else rfc3339(environment.paused_until)


def summary(environment: Environment) -> dict[str, Any]:
    """Return one item of list_environments: the same as `fields_of` an EnvironmentSummary."""
    line: dict[str, Any] = {
        "environment_id": environment.id,
        "name": environment.name,
        "runtime": str(environment.runtime),
        "status": str(environment.state),
        "created_at": rfc3339(environment.created_at),
    }
    if environment.network != PUBLIC:
        line["network"] = str(environment.network)
    if environment.error:
        line["error"] = environment.error
    if environment.paused_until is not None:
        line["on_disk_until"] = rfc3339(environment.paused_until)
    if environment.notice is not None:
        line["notice"] = environment.notice
    return line


def created(environment: Environment, installed: Sequence[str] = ()) -> CreatedEnvironment:
    """Return the result of create_environment."""
    return CreatedEnvironment(
        environment_id=environment.id,
        name=environment.name,
        runtime=environment.runtime.value,
        status=environment.state.value,
        network=environment.network.value,
        working_directory=readable(environment.directory),
        timeout=f"{int(environment.idle_timeout.total_seconds()) // 60}m",
        installed=list(installed),
    )
