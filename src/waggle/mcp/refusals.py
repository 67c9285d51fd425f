# SPDX-License-Identifier: Apache-2.0
"""How a resource or prompt that cannot be had is refused: by the protocol's error, with our hint.

What does not exist, what another owner has, and what nobody could ever name are told alike. Called
by `waggle.mcp.resources`, `.prompts` and `.call_record`; the words come from `waggle.mcp.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from waggle.domain.errors import (
    ArchiveNotFound,
    FileNotFound,
    InvalidArgument,
    InvalidRuntime,
    JobNotFound,
    NotFound,
)
from waggle.domain.toolset import Offer
from waggle.mcp.errors import Failure, describe

NOT_FOUND_BEFORE_2026: Final = -32002
"""The code for a resource that is not there, until 2026-07-28 made it INVALID_PARAMS."""
_ABSENT = (NotFound, JobNotFound, FileNotFound, ArchiveNotFound)


def unknown() -> NotFound:
    """The refusal of a URI that is none of ours."""
    return NotFound(
        "There is no such resource.",
        hint="resources/list has what there is, resources/templates/list how URIs are made.",
    )


def invalid(message: str, hint: str = "") -> MCPError:
    """The refusal of a parameter that is no URI."""
    failure = describe("resources", InvalidArgument(message, hint=hint))
    return MCPError(code=INVALID_PARAMS, message=failure.text, data=failure.meta())


def failed(failure: Failure) -> MCPError:
    """The refusal of a request for a reason that is not its own."""
    return MCPError(code=INTERNAL_ERROR, message=failure.text, data=failure.meta())


@asynccontextmanager
async def refusing(method: str, uri: str, version: str, offer: Offer) -> AsyncGenerator[None]:
    """Turn what is raised inside into the protocol's error; a bug only shows its id.

    `uri` is what the request names, empty for one that names none.
    """
    try:
        yield
    except MCPError:
        raise
    except Exception as error:
        failure = describe(method, error).heeding(offer)
        data: dict[str, Any] = {**({"uri": uri} if uri else {}), **failure.meta()}
        raise MCPError(code=_code(error, version), message=failure.text, data=data) from error


def _code(error: Exception, version: str) -> int:
    if isinstance(error, _ABSENT) and version in HANDSHAKE_PROTOCOL_VERSIONS:
        return NOT_FOUND_BEFORE_2026
    if isinstance(error, (*_ABSENT, InvalidArgument, InvalidRuntime)):
        return INVALID_PARAMS
    return INTERNAL_ERROR
