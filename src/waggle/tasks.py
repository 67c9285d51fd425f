# SPDX-License-Identifier: Apache-2.0
"""Tasks that must finish although their caller is cancelled, groups that raise one error, stages.

Used by every layer that does asynchronous work, mainly for clean-up. anyio's shield holds off
anyio's cancel scopes but not `asyncio.Task.cancel` (which `asyncio.timeout` uses); this holds off
both. `stage` logs for operators how long a part of a create takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import anyio
import anyio.abc
import structlog

log = structlog.get_logger(__name__)
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
async def holding(
    lock: asyncio.Lock | anyio.Lock, within: float | None, refusal: Exception
) -> AsyncGenerator[None]:
    """Hold a lock for a block. Raises `refusal` if others have it for more than `within` seconds.

    None waits as long as it takes. Safe to cancel while it waits.
    """
    try:
        with anyio.fail_after(within):
            await lock.acquire()
    except TimeoutError:
        raise refusal from None
    try:
        yield
    finally:
        lock.release()


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


@contextmanager
def stage(name: str) -> Generator[None]:
    """Log the duration of a block in milliseconds, at debug level, however it ends."""
    began = time.perf_counter()
    try:
        yield
    finally:
        log.debug("stage", stage=name, ms=round((time.perf_counter() - began) * 1000, 1))
