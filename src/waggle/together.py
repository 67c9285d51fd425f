# SPDX-License-Identifier: Apache-2.0
"""Several things at once, of which the first failure is the one to tell."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import anyio
import anyio.abc


@asynccontextmanager
async def together() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """A task group that raises the first error of its tasks itself, not a group of errors."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseException as error:
        raise _first(error) from None


def _first(error: BaseException) -> BaseException:
    if isinstance(error, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error
