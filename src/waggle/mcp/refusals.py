# SPDX-License-Identifier: Apache-2.0
"""Protocol errors for refused resources and prompts, and the resource kinds that an offer has.

Called by `waggle.mcp.server`, `observed`, `resources` and `results`; `waggle.mcp.errors` has the
texts. The refusal is the same for a resource that does not exist, one of another owner and one that
cannot exist. A resource kind is offered with any of the tools for the same data: a client without
tools that read files cannot read them as resources. Only this module decides that, for templates,
lists, completion, reads and subscriptions.
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
"""The code for a missing resource until 2026-07-28, which uses INVALID_PARAMS."""
_ABSENT = (NotFound, JobNotFound, FileNotFound, ArchiveNotFound)


def unknown() -> NotFound:
    """Return the refusal of a URI that waggle does not define."""
    return NotFound(
        "There is no such resource.",
        hint="resources/list has what there is, resources/templates/list how URIs are made.",
    )


def invalid(message: str, hint: str = "") -> MCPError:
    """Return the refusal of an invalid parameter other than a URI."""
    failure = describe("resources", InvalidArgument(message, hint=hint))
    return MCPError(code=INVALID_PARAMS, message=failure.text, data=failure.meta())


def failed(failure: Failure) -> MCPError:
    """Return the refusal of a valid request, for a reason such as the server's stop."""
    return MCPError(code=INTERNAL_ERROR, message=failure.text, data=failure.meta())


@asynccontextmanager
async def refusing(method: str, uri: str, version: str, offer: Offer) -> AsyncGenerator[None]:
    """Turn exceptions of the block into MCPError; of a bug, clients see its error id only.

    `uri` is the URI in the request, empty if it has none.
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
        raise unknown()
    if not offers(offer, type(address)):
        raise NotFound(
            "This server does not offer resources of this kind.",
            hint="resources/templates/list has those that it does.",
        )
    return address
