# SPDX-License-Identifier: Apache-2.0
"""Tasks that must finish although their caller is cancelled, and groups that raise one error.

Used by every layer that does asynchronous work, mainly for clean-up. anyio's shield holds off
anyio's cancel scopes but not `asyncio.Task.cancel` (which `asyncio.timeout` uses); this holds off
both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import anyio
import anyio.abc

_T = TypeVar("_T")


async def finish(work: Coroutine[Any, Any, _T]) -> _T:
    """Run `work` to its end and return its result; a cancellation meanwhile is raised afterwards.

    `work` must be bounded: nothing can interrupt it.
    """
    task = asyncio.ensure_future(work)
    cancelled = await _done(task)
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # so that the loop does not report it as never retrieved
        raise cancelled
    return task.result()


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and return when all have ended, whatever they raise. Idempotent."""
    for task in tasks:
        task.cancel()
    cancelled = await _done(*tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if cancelled is not None:
        raise cancelled


async def _done(*tasks: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for all tasks; return the last cancellation of the caller meanwhile, if any."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not all(task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled


@asynccontextmanager
async def together() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """Open a task group that raises the first error of its tasks itself, not a group of errors."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseException as error:
        raise errors_in(error)[0] from None


def errors_in(error: BaseException) -> list[BaseException]:
    """Return the errors in a group, at any depth, in order; for a plain error, the error alone."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [inner for member in group.exceptions for inner in errors_in(member)]
