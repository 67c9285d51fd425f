# SPDX-License-Identifier: Apache-2.0
"""Parameters that choose a new environment, shared by the tools that make one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from waggle.domain.errors import InvalidArgument
from waggle.domain.network import NetworkPolicy
from waggle.domain.runtime import RuntimeName

RuntimeArgument = Annotated[
    str,
    Field(
        description="What runs the code: python, node or shell.",
        json_schema_extra={"enum": [name.value for name in RuntimeName]},
    ),
]
ImageArgument = Annotated[
    str | None,
    Field(
        description="An OCI image instead of the runtime's own, such as "
        "registry.example/team/app:tag; the operator decides which are allowed."
    ),
]
NetworkArgument = Annotated[
    Annotated[str, Field(json_schema_extra={"enum": [policy.value for policy in NetworkPolicy]})]
    | None,
    Field(
        description="public: the internet, through a proxy; never the server's own network. "
        "none: nothing. Default: the operator's choice, usually public."
    ),
]


def parse_network(text: str | None) -> NetworkPolicy | None:
    """The policy that was asked for, if any. Raises InvalidArgument."""
    if not text:
        return None
    try:
        return NetworkPolicy(text)
    except ValueError:
        raise InvalidArgument(
            f"There is no network policy {text[:40]!r}.",
            hint=f"Use one of: {', '.join(NetworkPolicy)}.",
        ) from None
