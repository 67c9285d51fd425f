# SPDX-License-Identifier: Apache-2.0
"""What the tools for environments return, as models, and what all results have in common.

Models are the published output schemas and the structured content; `job_results`, `file_results`
and `state_results` have the others. Built by `waggle.mcp.tools` from domain values. Names are
those of the Go original where it has them. Times are RFC 3339 in UTC, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel, Field, WithJsonSchema

from waggle.domain.environment import Environment
from waggle.mcp.output_schemas import in_words


@lru_cache(maxsize=1000)
def rfc3339(moment: datetime) -> str:
    """A moment as clients expect it, for example `2026-03-04T05:06:07Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def readable(text: str) -> str:
    """`text` without lone surrogates, which no JSON document can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


UNUSED = "Unused for so long, e.g. 30m, it is paused to disk or, as the server has it, destroyed."
STATUSES = "creating, running, paused, resuming, destroying or error."
ON_DISK = "RFC 3339; how long it is kept while it is paused to disk; null otherwise."


class EnvironmentSummary(BaseModel):
    """An environment in a list."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str = Field(description="What people call it; need not be unique.")
    runtime: str = Field(description="python, node, shell or data.")
    status: str = Field(description=STATUSES)
    network: str = Field(description="none or public.")
    created_at: str = Field(description="RFC 3339.")
    error: str | None = Field(description="Why it is in the error status; null otherwise.")
    on_disk_until: str | None = Field(description=ON_DISK)


class CreatedEnvironment(BaseModel):
    """A new, running environment."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str
    runtime: str
    status: str
    network: str = Field(description="none or public.")
    ssh_port: int | None = Field(description="TCP port on the server's 127.0.0.1 (for operators).")
    working_directory: str = Field(description="Where programs start unless cwd says otherwise.")
    created_at: str = Field(description="RFC 3339.")
    timeout: str = Field(description=UNUSED)


class EnvironmentList(BaseModel):
    """All environments of the caller, oldest first."""

    environments: list[Annotated[EnvironmentSummary, WithJsonSchema(in_words(EnvironmentSummary))]]
    count: int


class DestroyedEnvironment(BaseModel):
    """The end of an environment."""

    environment_id: str
    status: str
    message: str


def on_disk_until(environment: Environment) -> str | None:
    """Until when it is kept, if it is paused to disk."""
    return None if environment.paused_until is None else rfc3339(environment.paused_until)


def summary(environment: Environment) -> dict[str, Any]:
    """One line of list_environments: the fields of EnvironmentSummary, as JSON has them."""
    return {
        "environment_id": environment.id,
        "name": environment.name,
        "runtime": str(environment.runtime),
        "status": str(environment.state),
        "network": str(environment.network),
        "created_at": rfc3339(environment.created_at),
        "error": environment.error,
        "on_disk_until": on_disk_until(environment),
    }


def created(environment: Environment) -> CreatedEnvironment:
    """What create_environment answers."""
    return CreatedEnvironment(
        environment_id=environment.id,
        name=environment.name,
        runtime=environment.runtime,
        status=environment.state,
        network=environment.network,
        ssh_port=environment.ssh_port,
        working_directory=readable(environment.directory),
        created_at=rfc3339(environment.created_at),
        timeout=f"{int(environment.idle_timeout.total_seconds()) // 60}m",
    )


def success(
    model: BaseModel | Mapping[str, Any], *texts: str, also: tuple[ContentBlock, ...] = ()
) -> CallToolResult:
    """A result with its text blocks for a model and its structured content for a program.

    The content may be given as its JSON, which the SDK compares with the tool's output schema.
    """
    blocks: list[ContentBlock] = [TextContent(type="text", text=text) for text in texts]
    fields = model.model_dump(mode="json") if isinstance(model, BaseModel) else {**model}
    return CallToolResult(content=[*blocks, *also], structured_content=fields)
