# SPDX-License-Identifier: Apache-2.0
"""Tell a client of the environment that a call made for itself. Pure."""

from __future__ import annotations

from mcp_types import CallToolResult, TextContent

from waggle.mcp.observed import NEW_META_KEY
from waggle.service.environments.provision import Place


def introduced(result: CallToolResult, place: Place) -> CallToolResult:
    """The result of a call, with the id of its environment first if the call made that."""
    if not place.is_new:
        return result
    told = f"environment_id: {place.id} (new, {place.environment.runtime}; give it to go on there)"
    given = result.structured_content
    return result.model_copy(
        update={
            "content": [TextContent(type="text", text=told), *result.content],
            "meta": {**(result.meta or {}), NEW_META_KEY: place.id},
            "structured_content": given if given is None else {"environment_id": place.id, **given},
        }
    )
