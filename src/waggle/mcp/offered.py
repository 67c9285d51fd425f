# SPDX-License-Identifier: Apache-2.0
"""The offer of a client, applied where its request enters and where its answer leaves.

Called by `waggle.mcp.server`, `surfaces`, `observed` and the resource handlers; nothing between
knows the offer. Advice is cut to it, and links to resources; text of a guest never is. A
resource kind is offered with any of the tools for the same data: a client without tools that read
files cannot read them as resources. The refusal is the same for a resource that does not exist, one
of another owner and one that cannot exist.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, ResourceLink
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request as HttpRequest

from waggle.domain.errors import (
    ArchiveNotFound,
    FileNotFound,
    InvalidArgument,
    InvalidRuntime,
    JobNotFound,
    NotFound,
)
from waggle.domain.toolset import CHOSEN, TOOLS, Offer, Toolset
from waggle.mcp.errors import describe
from waggle.mcp.results import Reply
from waggle.mcp.uris import (
    ARCHIVE_TEMPLATE,
    DISPLAY_TEMPLATE,
    DISPLAYS_TEMPLATE,
    ENVIRONMENT_TEMPLATE,
    FILE_TEMPLATE,
    FORM_TEMPLATE,
    NETWORK_TEMPLATE,
    STREAM_TEMPLATE,
    Address,
    ArchiveAddress,
    DisplayAddress,
    DisplaysAddress,
    EnvironmentAddress,
    FileAddress,
    NetworkAddress,
    StreamAddress,
    parse_uri,
)

NOT_FOUND_BEFORE_2026: Final = -32002
"""The code for a missing resource until 2026-07-28, which uses INVALID_PARAMS."""
_ABSENT = (NotFound, JobNotFound, FileNotFound, ArchiveNotFound)


def chosen_offer(request: object) -> Offer | None:
    """Return the offer that the client of this HTTP request chose; None if it did not choose."""
    offer = request.scope.get(CHOSEN) if isinstance(request, HttpRequest) else None
    return offer if isinstance(offer, Offer) else None


def result_for(reply: Reply, offer: Offer) -> CallToolResult:
    """Return a tool's reply as the result for a client with this offer."""

    def linked(link: ResourceLink) -> bool:
        address = parse_uri(link.uri)
        return address is not None and offers(offer, type(address))

    return reply.result(offer.advice, linked)


@asynccontextmanager
async def refusing(
    method: str, uri: str, version: str, advise: Callable[[str], str]
) -> AsyncGenerator[None]:
    """Turn exceptions of the block into MCPError; of a bug, clients see its error id only.

    `uri` is the URI in the request, empty if it has none.
    """
    try:
        yield
    except MCPError:
        raise
    except Exception as error:
        failure = describe(method, error).advised(advise)
        data: dict[str, Any] = {**({"uri": uri} if uri else {}), **failure.meta()}
        raise MCPError(code=_code(error, version), message=failure.text, data=data) from error


def _code(error: Exception, version: str) -> int:
    if isinstance(error, _ABSENT) and version in HANDSHAKE_PROTOCOL_VERSIONS:
        return NOT_FOUND_BEFORE_2026
    if isinstance(error, (*_ABSENT, InvalidArgument, InvalidRuntime)):
        return INVALID_PARAMS
    return INTERNAL_ERROR


_RUNS: Final = (
    *TOOLS[Toolset.EXECUTION],
    *TOOLS[Toolset.JOBS],
    *TOOLS[Toolset.PACKAGES],
)
_NEEDS: Mapping[type[Address], Sequence[str]] = {
    EnvironmentAddress: TOOLS[Toolset.ENVIRONMENTS],
    NetworkAddress: TOOLS[Toolset.ENVIRONMENTS],
    StreamAddress: _RUNS,
    DisplaysAddress: _RUNS,
    DisplayAddress: _RUNS,
    FileAddress: ["read_file"],
    ArchiveAddress: ["download_files"],
}
_KINDS: Mapping[str, type[Address]] = {
    ENVIRONMENT_TEMPLATE: EnvironmentAddress,
    NETWORK_TEMPLATE: NetworkAddress,
    STREAM_TEMPLATE: StreamAddress,
    DISPLAYS_TEMPLATE: DisplaysAddress,
    DISPLAY_TEMPLATE: DisplayAddress,
    FORM_TEMPLATE: DisplayAddress,
    FILE_TEMPLATE: FileAddress,
    ARCHIVE_TEMPLATE: ArchiveAddress,
}


def offers(offer: Offer, kind: type[Address]) -> bool:
    """Whether resources of this kind are offered."""
    return any(offer.has(name) for name in _NEEDS[kind])


def offers_template(offer: Offer, template: str) -> bool:
    """Whether waggle defines this template, and resources of its kind are offered."""
    return template in _KINDS and offers(offer, _KINDS[template])


def offered_address(offer: Offer, uri: str) -> Address:
    """Return the address that a URI names. Raises NotFound if it is unknown or not offered.

    Raises InvalidArgument for a query that its template does not have.
    """
    address = parse_uri(uri)
    if address is None:
        raise NotFound(
            "There is no such resource.",
            hint="resources/list has all there are, resources/templates/list the forms of URIs.",
        )
    if not offers(offer, type(address)):
        raise NotFound(
            "This server does not offer resources of this kind.",
            hint="resources/templates/list has those that it offers.",
        )
    return address
