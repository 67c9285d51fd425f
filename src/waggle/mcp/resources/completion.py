# SPDX-License-Identifier: Apache-2.0
"""Complete arguments: of templates by environments and jobs, of prompts by runtimes."""

from __future__ import annotations

from mcp_types import (
    CompleteRequestParams,
    CompleteResult,
    Completion,
    PromptReference,
)

from waggle.domain.access import Owner
from waggle.domain.errors import WaggleError
from waggle.domain.programs.job import StreamName
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.context import Services
from waggle.mcp.offered import offers_template
from waggle.mcp.prompts import PROMPTS
from waggle.service.programs.jobs import MAX_REMEMBERED

MAX_VALUES = 100
"""More may not be sent at once."""


def complete(services: Services, params: CompleteRequestParams, *, owner: Owner) -> CompleteResult:
    """The values that begin with what is typed; none for what cannot be completed."""
    reference, name = params.ref, params.argument.name
    values: list[str] = []
    if isinstance(reference, PromptReference):
        values = [*RuntimeName] if reference.name in PROMPTS and name == "runtime" else []
    elif offers_template(services.offer, reference.uri):
        chosen = (params.context.arguments if params.context else None) or {}
        values = _values(services, name, chosen.get("id", ""), owner)
    found = [value for value in values if value.startswith(params.argument.value)]
    return CompleteResult(
        completion=Completion(
            values=found[:MAX_VALUES], total=len(found), has_more=len(found) > MAX_VALUES
        )
    )


def _values(services: Services, name: str, environment_id: str, owner: Owner) -> list[str]:
    match name:
        case "id":
            return [each.id for each in services.environments.list(owner=owner)]
        case "stream":
            return list(StreamName)
        case "n":
            try:
                jobs = services.jobs.newest(environment_id, MAX_REMEMBERED, owner=owner)
            except WaggleError:
                return []
            return [str(job.number) for job in jobs]
        case _:
            return []
