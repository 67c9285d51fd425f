# SPDX-License-Identifier: Apache-2.0
"""How a resource or prompt that cannot be had is refused: by the protocol's error, with our hint.

What does not exist, what another owner has, and what nobody could ever name are told alike. Called
by `waggle.mcp.resources`, `.prompts` and `.call_record`; the words come from `waggle.mcp.errors`.

Which kinds of resources there are for whom tools are narrowed to some sets. Pure.

A kind is there with any of the tools for the same: who may not read files with tools may not read
them as resources. The one place that says so, for templates, lists, completion,
reads and subscriptions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
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
from waggle.domain.toolset import TOOLS, Offer, Toolset
from waggle.mcp.errors import Failure, describe
from waggle.mcp.uris import (
    ARCHIVE_TEMPLATE,
    ENVIRONMENT_TEMPLATE,
    FILE_TEMPLATE,
    STREAM_TEMPLATE,
    Address,
    ArchiveAddress,
    EnvironmentAddress,
    FileAddress,
    StreamAddress,
    parse_uri,
)

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


_NEEDS: Mapping[type[Address], Sequence[str]] = {
    EnvironmentAddress: TOOLS[Toolset.ENVIRONMENTS],
    StreamAddress: [
        name for each in (Toolset.EXECUTION, Toolset.JOBS, Toolset.PACKAGES) for name in TOOLS[each]
    ],
    FileAddress: ["read_file"],
    ArchiveAddress: ["download_files"],
}
_KINDS: Mapping[str, type[Address]] = {
    ENVIRONMENT_TEMPLATE: EnvironmentAddress,
    STREAM_TEMPLATE: StreamAddress,
    FILE_TEMPLATE: FileAddress,
    ARCHIVE_TEMPLATE: ArchiveAddress,
}


def offers(offer: Offer, kind: type[Address]) -> bool:
    """Whether there are resources of this kind."""
    return any(offer.has(name) for name in _NEEDS[kind])


def offers_template(offer: Offer, template: str) -> bool:
    """Whether it is a template of ours, and there are resources of its kind."""
    return template in _KINDS and offers(offer, _KINDS[template])


def offered_address(offer: Offer, uri: str) -> Address:
    """What a URI names. Raises NotFound for what is none of ours or not offered.

    Raises InvalidArgument for a query that its template does not have.
    """
    address = parse_uri(uri)
    if address is None:
        raise unknown()
    if not offers(offer, type(address)):
        raise NotFound(
            "This server does not offer resources of this kind.",
            hint="resources/templates/list has those that it does.",
        )
    return address
