# SPDX-License-Identifier: Apache-2.0
"""The idempotency key of a tool call: which calls have one, and what is kept of their results.

Called by `waggle.mcp.server` around every call. `waggle.service.idempotency` does the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from mcp_types import CallToolResult, InputRequiredResult, TextContent
from pydantic import Field

from waggle.domain.access import MAX_KEY, KeyedCall, parse_key
from waggle.domain.toolset import Offer
from waggle.mcp.schema.input_schemas import unlisted
from waggle.service.idempotency import Repeats

PARAMETER = "idempotency_key"
REPEATED_META_KEY = "waggle/repeated"
LOST_WITH_SERVER = frozenset({"create_environment", "fork_environment"})
"""Tools whose interrupted work is undone when the server starts again."""
_REPEATED = (
    "This is the result of the first call with this idempotency_key; nothing was done again."
)
_SINCE = {
    "create_environment": "list_environments tells whether it is still there.",
    "fork_environment": "list_environments tells which of them are still there.",
    "snapshot_environment": "list_snapshots tells whether it is still kept.",
    "execute": "read_job tells what became of a program that still ran.",
    "run_command": "read_job tells what became of a program that still ran.",
}
"""Where there is news of what a tool made."""
IdempotencyKey = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=MAX_KEY,
        description="Any text that is unique for what is to be done. A call that is repeated with "
        "its key within a day, after a lost connection for example, returns the first result and "
        "does nothing.",
        json_schema_extra=unlisted(),
    ),
]
ToolResult = CallToolResult | InputRequiredResult
ToolCall = Callable[[], Awaitable[ToolResult]]


async def once(
    repeats: Repeats,
    name: str,
    arguments: Mapping[str, Any],
    call: ToolCall,
    *,
    owner: str,
    offer: Offer,
) -> ToolResult:
    """Call the tool, or return the result of an earlier call with the same key, and say so.

    What was refused before anything was done is not kept. Raises as `Repeats.once`.
    """
    given = arguments.get(PARAMETER)
    if not isinstance(given, str):
        return await call()
    keyed = KeyedCall(owner, parse_key(given), fingerprint(name, arguments))
    fresh: list[ToolResult] = []

    async def work() -> str | None:
        result = await call()
        fresh.append(result)
        return result.model_dump_json(by_alias=True) if _done(result) else None

    kept = await repeats.once(keyed, work, lost_with_server=name in LOST_WITH_SERVER)
    if kept is None:
        return fresh[0]
    result = CallToolResult.model_validate_json(kept)
    told = offer.advice(f"{_REPEATED} {_SINCE.get(name, '')}".strip())
    return result.model_copy(
        update={
            "content": [*result.content, TextContent(type="text", text=told)],
            "meta": {**(result.meta or {}), REPEATED_META_KEY: True},
        }
    )


def _done(result: ToolResult) -> bool:
    """Whether something was done: a refusal says nothing but its error."""
    return isinstance(result, CallToolResult) and not (
        result.is_error and result.structured_content is None
    )


def fingerprint(name: str, arguments: Mapping[str, Any]) -> str:
    """The digest of a call without its key. Pure."""
    rest = {key: value for key, value in arguments.items() if key != PARAMETER}
    canonical = json.dumps([name, rest], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
