# SPDX-License-Identifier: Apache-2.0
"""What the tools for environments return, as models, and how every result is formed.

A model is what a tool's structured content may say, and is published as its schema where a tool
has one. A field that has its default value is left out of a result: no nulls, no zeros that say
nothing, no empty lists. `Model.model_validate` of such a result has them again. `job_results`,
`file_results`, `state_results` and `snapshot_results` have the other models. Built by
`waggle.mcp.tools` from domain values. Times are RFC 3339 in UTC, sizes bytes.

Keep a result small enough for every client.

What a model reads is counted in characters. Beside that, common clients refuse one event of more
than 1 MiB, and a tool's result goes over the wire twice: as text for a model and as structured
content. So one copy of what a guest wrote may take `COPY_BUDGET` bytes as JSON, in its most
wasteful form (every non-ASCII character escaped).
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
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.execution import HOME, Output
from waggle.mcp.schema.outputs import in_words


@lru_cache(maxsize=1000)
def rfc3339(moment: datetime) -> str:
    """A moment as clients expect it, for example `2026-03-04T05:06:07Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def readable(text: str) -> str:
    """`text` without lone surrogates, which no JSON document can carry."""
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
    """Until when it is kept, if it is paused to disk; else empty."""
    return "" if environment.paused_until is None else rfc3339(environment.paused_until)


def summary(environment: Environment) -> dict[str, Any]:
    """One line of list_environments: the fields of EnvironmentSummary, as `fields_of` has them."""
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
    """What create_environment answers."""
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
    """The structured content: a model's fields without those that have their default values.

    Content may be given as its JSON, which then leaves out the same.
    """
    if isinstance(model, BaseModel):
        return model.model_dump(mode="json", exclude_defaults=True)
    return {**model}


def success(
    model: BaseModel | Mapping[str, Any], *texts: str, also: tuple[ContentBlock, ...] = ()
) -> CallToolResult:
    """A result as text blocks and as structured content, which say the same.

    A note of the model is the last text. With a picture there is no structured content: common
    clients show a model that alone when there is some, and would hide the picture.
    """
    told = fields_of(model)
    note = told.get("note", "")
    blocks: list[ContentBlock] = [
        TextContent(type="text", text=text) for text in (*texts, note) if text
    ]
    hidden = any(isinstance(block, ImageContent) for block in also)
    return CallToolResult(content=[*blocks, *also], structured_content=None if hidden else told)


COPY_BUDGET = 480_000
"""Bytes of JSON that one copy of a result's payload may take."""
LIST_BUDGET = 32_000
"""Characters that a list of what a guest has (files, matches) may take."""


def wire_size(text: str) -> int:
    """Bytes that `text` takes inside a JSON document, at most."""
    return len(json.dumps(text)) - 2


def fit(text: str, budget: int) -> str:
    """A start of `text` that takes at most `budget` bytes on the wire, and not much less.

    Not empty unless `text` is, for any budget of 12 bytes or more.
    """
    keep = len(text)
    while (size := wire_size(text[:keep])) > budget:
        keep = min(keep * budget // size, keep - 1)
    return text[:keep]


def share(stdout: Output, stderr: Output, characters: int) -> tuple[Output, Output]:
    """Both streams cut so that their texts have at most `characters` together, and always fit.

    A short one leaves its room to the other.
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
    """The same stream with more of its middle cut out, until its text takes `room`."""
    kept = len(output.head) + len(output.tail)
    while (cost := _cost(output.text(), characters)) > room and kept > 0:
        kept = min(kept * room // cost, kept - 1)
        output = _cut(output, kept)
    return output


def _cost(text: str, characters: int) -> int:
    """Its characters, or its share of COPY_BUDGET in terms of `characters` where that is more."""
    return max(len(text), -(-wire_size(text) * characters // COPY_BUDGET))


def _cut(output: Output, kept: int) -> Output:
    """Keep `kept` bytes, half from each end. `Output.text` leaves out characters cut through."""
    rest = output.tail or output.head
    half = kept // 2
    return Output(
        head=output.head[: kept - half], tail=rest[len(rest) - half :], total=output.total
    )
