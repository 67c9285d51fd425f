# SPDX-License-Identifier: Apache-2.0
"""The base of the protocol's models, and the types of their fields.

The models of parameters and results share them. What a guest sends is checked here: it is data of
bounded size with known types, and nothing that is not described is taken.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

MAX_PATH: Final = 4095
MAX_NAME: Final = 255
MAX_ID: Final = 64
"""Bytes of an id that is a string."""
MAX_TEXT: Final = 512
MAX_READ: Final = 256 * 1024
"""Bytes of one `file_read`, and of each output of a process."""
MAX_WRITE: Final = 176 * 1024
"""Bytes of one `file_write`, and of the standard input of a process."""
MAX_SECONDS: Final = 86_400
"""Seconds that a program may have. A host waits as long as an agent's policy says, up to this."""
MAX_SAFE: Final = 2**53 - 1
"""The largest integer that every JSON implementation keeps exactly (RFC 8259, section 6)."""


class Message(BaseModel):
    """Parameters or a result. Unknown members are refused, and nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Part(BaseModel):
    """A part of a result. Newer agents may say more, which is dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Result(Part):
    """A result. Newer agents may say more, which is dropped."""


def _decode(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("not a string")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


Base64 = Annotated[
    bytes,
    PlainValidator(_decode),
    PlainSerializer(_encode, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes, sent as base64 with padding (RFC 4648, section 4)."""

Count = Annotated[int, Field(ge=0, le=MAX_SAFE)]
"""A number of bytes, of things, or of nanoseconds since a start."""
Time = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Nanoseconds since 1970-01-01 UTC."""
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Name = Annotated[str, Field(max_length=MAX_NAME)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Path = Annotated[str, Field(min_length=1, max_length=MAX_PATH, pattern=r"^/[^\x00]*$")]
"""An absolute path. A `..` in it is refused."""
