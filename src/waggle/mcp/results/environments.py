# SPDX-License-Identifier: Apache-2.0
"""Result models of the environment tools, and the form and size limits of every result.

A model is the schema of a tool's structured content, if the tool publishes one. A field with its
default is left out; `Model.model_validate` restores it. Times are RFC 3339 in UTC, sizes bytes.
Common clients refuse an event over 1 MiB, and a result is sent twice, as text and as structured
content. So one copy of guest data may take `COPY_BUDGET` bytes of JSON with every non-ASCII
character escaped. Text for a model is limited in characters. Called by the other modules of this
package, `waggle.mcp.tools`, `resources.read` and `mcp.errors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent
from pydantic import BaseModel, Field, WithJsonSchema

from waggle.domain.environment import Environment
from waggle.domain.machine import NetworkPolicy
from waggle.domain.programs import HOME, Output
from waggle.mcp.schema.outputs import in_words


@lru_cache(maxsize=1000)
def rfc3339(moment: datetime) -> str:
    """Return a time as clients expect it, for example `2026-03-04T05:06:07Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def readable(text: str) -> str:
    """Return `text` without lone surrogates, which JSON cannot represent."""
    return text.encode("utf-8", "replace").decode("utf-8")


PUBLIC = NetworkPolicy.PUBLIC.value
UNUSED = "Unused for so long, e.g. 30m, it is paused to disk or, as the server has it, destroyed."
STATUSES = "creating, running, paused, resuming, destroying or error."
NETWORK = "none, or public unless told."
NOTICE = "What to know of it now, e.g. why it stands still in memory and not on the disk."
ON_DISK = "RFC 3339; how long it is kept while it is paused to disk."
NOTE = "What to know, or to do next."


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


def fields_of(model: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Return the structured content: a model's fields without those that have their defaults.

    A mapping must be in this form already; the result is a copy of it.
    """
    if isinstance(model, BaseModel):
        return model.model_dump(mode="json", exclude_defaults=True)
    return {**model}


def success(
    model: BaseModel | Mapping[str, Any], *texts: str, also: tuple[ContentBlock, ...] = ()
) -> CallToolResult:
    """Return a result as text blocks and as structured content, with the same information.

    The model's note is the last text. A result with a picture has no structured content: common
    clients show only structured content if there is any, and would hide the picture.
    """
    told = fields_of(model)
    note = told.get("note", "")
    blocks: list[ContentBlock] = [
        TextContent(type="text", text=text) for text in (*texts, note) if text
    ]
    hidden = any(isinstance(block, ImageContent) for block in also)
    return CallToolResult(content=[*blocks, *also], structured_content=None if hidden else told)


COPY_BUDGET = 480_000
"""The most bytes of JSON of one copy of a result's payload."""
LIST_BUDGET = 32_000
"""The most characters of a list of the guest's files or matches."""


def wire_size(text: str) -> int:
    """Return the most bytes that `text` takes inside a JSON document."""
    return len(json.dumps(text)) - 2


def fit(text: str, budget: int) -> str:
    """Return a prefix of `text` that takes at most `budget` bytes on the wire, and not much less.

    It is empty only for an empty `text`, if the budget is 12 bytes or more.
    """
    keep = len(text)
    while (size := wire_size(text[:keep])) > budget:
        keep = min(keep * budget // size, keep - 1)
    return text[:keep]


def share(stdout: Output, stderr: Output, characters: int) -> tuple[Output, Output]:
    """Return both streams, cut so that their texts have at most `characters` and fit a result.

    A short stream leaves its room to the other.
    """
    first, second = _cost(stdout.text(), characters), _cost(stderr.text(), characters)
    if first + second <= characters:
        return stdout, stderr
    half = characters // 2
    if first <= half:
        return stdout, shrink(stderr, characters - first, characters)
    if second <= half:
        return shrink(stdout, characters - second, characters), stderr
    return shrink(stdout, half, characters), shrink(stderr, half, characters)


def shrink(output: Output, room: int, characters: int) -> Output:
    """Return the stream with more of its middle cut out, until its text takes at most `room`."""
    kept = len(output.head) + len(output.tail)
    while (cost := _cost(output.text(), characters)) > room and kept > 0:
        kept = min(kept * room // cost, kept - 1)
        output = _cut(output, kept)
    return output


def _cost(text: str, characters: int) -> int:
    """Return the length of `text`, or its share of COPY_BUDGET scaled to `characters` if larger."""
    return max(len(text), -(-wire_size(text) * characters // COPY_BUDGET))


def _cut(output: Output, kept: int) -> Output:
    """Keep `kept` bytes, half from each end. `Output.text` leaves out characters cut in two."""
    rest = output.tail or output.head
    half = kept // 2
    return Output(
        head=output.head[: kept - half], tail=rest[len(rest) - half :], total=output.total
    )
