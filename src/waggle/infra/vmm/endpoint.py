# SPDX-License-Identifier: Apache-2.0
"""One method of a VMM's API, as data: verb, path, models, when it is legal, since when it exists.

The tables of `firecracker` and `cloud_hypervisor` consist of these; `client` sends them. Knows no
VMM and no connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import BaseModel

from waggle.infra.vmm.version import Version

Asked = TypeVar("Asked", bound=BaseModel | None)
Answered = TypeVar("Answered", bound=BaseModel | None)
Verb = Literal["GET", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Asked, Answered]):
    """A method. `name` is its operation id in the VMM's OpenAPI document, or its route's name.

    `path` may hold one name in braces, such as `/drives/{drive_id}`. `request` and `answer` are
    NoneType where there is no body. `legal` are the states of the VM, as the VMM names them and
    with commas between, in which a call is allowed.
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
    may_be_empty: bool = False
    """Whether the answer can have no body, which `client` returns as None."""


def table(values: Iterable[object]) -> tuple[Endpoint[Any, Any], ...]:
    """Return the endpoints among the values of a module, in their order."""
    return tuple(cast("Endpoint[Any, Any]", one) for one in values if isinstance(one, Endpoint))
