# SPDX-License-Identifier: Apache-2.0
"""Calls of a guest agent: their parameters and results between models and JSON, and their time.

Used by `client`, and by `waggle agent`, which checks parameters before it dials. Knows no channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from pydantic import ValidationError

from waggle.domain.errors import InvalidArgument
from waggle.infra.guest.answers import clean, lost
from waggle.infra.guest.protocol import METHODS
from waggle.infra.guest.protocol.fields import Result

R = TypeVar("R", bound=Result)


@asynccontextmanager
async def within(method: str, seconds: float) -> AsyncGenerator[None]:
    """Bound the time of a block that calls a method. Raises GuestLost."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise lost(method, f"no answer within {seconds:g} s") from None


def encoded(method: str, params: Mapping[str, object]) -> str:
    """Return the parameters of a method as JSON. Raises InvalidArgument."""
    given = {name: value for name, value in params.items() if value is not None}
    try:
        return METHODS[method].params.model_validate(given).model_dump_json(exclude_none=True)
    except ValidationError as error:
        raise InvalidArgument(f"{method}: {_first(error)}.", hint="") from None


def decoded(method: str, kind: type[R], result: object) -> R:
    """Return the result of a method as a model. Raises GuestLost."""
    try:
        return kind.model_validate(result)
    except ValidationError as error:
        raise lost(method, f"its answer is wrong: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """Return the place and the reason of the first of a model's errors."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    why = found["msg"].replace("Input should be", "must be")
    return clean(f"{place}: {why}" if place else why, 200)
