# SPDX-License-Identifier: Apache-2.0
"""The base of the models of VMMs' APIs, the types of their fields, and what a version lacks.

A model is strict on what is sent. `client` reads answers with the same models and drops fields that
they do not know, since a newer VMM may say more. A `Version` in a field's metadata is the first one
that has the field; fields without are in the oldest supported one. Lengths are bounded here, since
a guest may have taken its VMM over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, cast

from pydantic import BaseModel, ConfigDict, Field

from waggle.infra.vmm.version import Version

MAX_TEXT: Final = 1024
MAX_PATH: Final = 4095
MAX_ARGUMENTS: Final = 8192
"""Characters of a kernel's command line."""
MAX_LIST: Final = 1024


class Body(BaseModel):
    """The body of a request or of an answer. Nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Text = Annotated[str, Field(max_length=MAX_TEXT)]
Path = Annotated[str, Field(max_length=MAX_PATH, pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_]+$")]
"""An id that is a part of a path, too."""
Arguments = Annotated[str, Field(max_length=MAX_ARGUMENTS, pattern=r"^[^\x00]*$")]
Count = Annotated[int, Field(ge=0, le=2**64 - 1)]
"""A number of bytes, of things or of milliseconds."""
Small = Annotated[int, Field(ge=0, le=2**32 - 1)]
Mac = Annotated[str, Field(max_length=17, pattern=r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$")]
Ip = Annotated[str, Field(max_length=45, pattern=r"^[0-9a-fA-F]*[.:][0-9a-fA-F.:]+$")]
Bits = Annotated[str, Field(max_length=256, pattern=r"^0b[01xX_]+$")]
"""A bit map as Firecracker writes it: `0b`, and for each bit 0, 1, or x for leave as it is."""


def lacking(body: BaseModel, version: Version) -> Iterator[tuple[str, Version]]:
    """Yield the fields that are set and newer than `version`, with the first version of each."""
    for name, info in type(body).model_fields.items():
        value = cast("object", getattr(body, name))
        if value is None:
            continue
        for since in info.metadata:
            if isinstance(since, Version) and since > version:
                yield name, since
        for part in cast("list[object]", value) if isinstance(value, list) else (value,):
            if isinstance(part, BaseModel):
                yield from lacking(part, version)
