# SPDX-License-Identifier: Apache-2.0
"""Complete the arguments of the templates: the caller's environments, and what ran in them."""

from __future__ import annotations

from mcp_types import (
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ResourceTemplateReference,
)

from waggle.domain.access import Owner
from waggle.domain.errors import WaggleError
from waggle.domain.job import StreamName
from waggle.mcp.context import Services
from waggle.mcp.resources.offered import offers_template
from waggle.service.jobs import MAX_REMEMBERED

MAX_VALUES = 100
"""More may not be sent at once."""


def complete(services: Services, params: CompleteRequestParams, *, owner: Owner) -> CompleteResult:
    """The values that begin with what is typed; none for what cannot be completed."""
    reference = params.ref
    known = isinstance(reference, ResourceTemplateReference) and offers_template(
        services.offer, reference.uri
    )
    chosen = (params.context.arguments if params.context else None) or {}
    values = _values(services, params.argument.name, chosen.get("id", ""), owner) if known else []
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
