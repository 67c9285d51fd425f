# SPDX-License-Identifier: Apache-2.0
"""Which kinds of resources there are for whom tools are narrowed to some sets. Pure.

A kind is there with any of the tools for the same: who may not read files with tools may not read
them as resources. The one place that says so, for templates, lists, completion,
reads and subscriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waggle.domain.errors import NotFound
from waggle.domain.toolset import TOOLS, Offer, Toolset
from waggle.mcp.refusals import unknown
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
