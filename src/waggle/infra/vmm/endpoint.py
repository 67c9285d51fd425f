# SPDX-License-Identifier: Apache-2.0
"""One method of a VMM's API, as data: verb, path, models, when it is legal, since when it exists.

The tables of `firecracker` and `cloud_hypervisor` consist of these; `client` sends them. Knows no
VMM and no connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

from waggle.infra.vmm.version import Version

Asked = TypeVar("Asked", bound=BaseModel | None)
Answered = TypeVar("Answered", bound=BaseModel | None)
Verb = Literal["GET", "PUT", "PATCH"]


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Asked, Answered]):
    """A method. `name` is its operation id in the VMM's OpenAPI document.

    `path` may hold one name in braces, such as `/drives/{drive_id}`. `request` and `answer` are
    None where there is no body. `legal` says in which states of the VM a call is allowed.
    """

    name: str
    verb: Verb
    path: str
    request: type[Asked]
    answer: type[Answered]
    legal: str
    since: Version
    until: Version | None = None
    """The first version without it."""
