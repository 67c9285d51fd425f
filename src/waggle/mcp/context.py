# SPDX-License-Identifier: Apache-2.0
"""The context of a request: the services, the owner, progress reports, and waiting for a job.

Called by all of `waggle.mcp`; `waggle.app` makes `Services`. `waggle.web` has authenticated the
owner before.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from starlette.requests import Request as HttpRequest

from waggle.domain.access import LOCAL, Owner
from waggle.domain.environment import Environment
from waggle.domain.exposed_url import ExposedUrls
from waggle.domain.host import Progress
from waggle.domain.observer import Observer
from waggle.domain.programs.job import JobView, StreamName
from waggle.domain.programs.text import last_line
from waggle.domain.toolset import Offer
from waggle.large import ARGUMENTS
from waggle.mcp.asking import waited
from waggle.mcp.errors import clean
from waggle.service.environments.networks import NetworkService
from waggle.service.environments.ports import PortService
from waggle.service.environments.questions import Questions
from waggle.service.environments.service import EnvironmentService
from waggle.service.environments.snapshots import SnapshotService
from waggle.service.files import FilesystemService
from waggle.service.files.trees import TreeService
from waggle.service.files.watches import WatchService
from waggle.service.idempotency import Repeats
from waggle.service.programs.execution import ExecutionLimits, ExecutionService
from waggle.service.programs.jobs import JobService
from waggle.service.sharing import RateLimiter

if TYPE_CHECKING:
    from waggle.mcp.results.images import Album
    from waggle.service.programs import Job

Ctx = Context[Any, Any]
Request = ServerRequestContext[dict[str, Any], Any]
"""The context that the low-level server passes to handlers other than tools."""
T = TypeVar("T")

HEARTBEAT_SECONDS = 5.0
MUCH = 32 << 10
"""Bytes of a guest from which a result is made in a thread; less takes a few milliseconds."""
_THREADS = anyio.CapacityLimiter(2)
SLOWEST_REPORT = 1.0
"""Seconds that a service waits for a client to take a report: it may hold a frozen machine."""


async def apart(make: Callable[[], T], size: int) -> T:
    """Return `make()` of `size` bytes of a guest, without blocking the event loop for long.

    It runs in a thread if it is much, so it must use only what nobody changes.
    """
    return await anyio.to_thread.run_sync(make, limiter=_THREADS) if size > MUCH else make()


@dataclass(frozen=True, slots=True)
class Services:
    """The services behind the tools, and the settings of the tools.

    `heartbeat` is the seconds between progress reports of work without a known end. `offer` is
    shown to clients that do not choose toolsets. `albums` find the images that a job has written;
    None is for a job whose caller wants no pictures.
    """

    environments: EnvironmentService
    snapshots: SnapshotService
    execution: ExecutionService
    jobs: JobService
    filesystem: FilesystemService
    repeats: Repeats
    trees: TreeService
    watches: WatchService
    ports: PortService
    networks: NetworkService
    execution_limits: ExecutionLimits
    heartbeat: float = HEARTBEAT_SECONDS
    rates: RateLimiter | None = None
    observer: Observer = field(default_factory=Observer)
    offer: Offer = field(default_factory=Offer)
    albums: WeakKeyDictionary[Job, Album | None] = field(
        default_factory=WeakKeyDictionary["Job", "Album | None"]
    )
    parameter_headers: bool = False
    """Whether clients repeat environment_id in a header."""
    urls: ExposedUrls = field(default_factory=ExposedUrls)
    """The form of the URLs of exposed ports on a server that listens."""
    questions: Questions = field(default_factory=Questions)

    def when_unused(self, environment: Environment) -> str:
        """Return its end after its idle time, as a text to follow "is"."""
        pauses = self.environments.pauses_when_idle(environment)
        return "paused to disk" if pauses else "destroyed"


def current_owner(ctx: Ctx) -> Owner:
    """Return the owner whose environments this request may see; over stdio there is only one.

    Raises RuntimeError for an HTTP request without authentication, which would be a bug.
    """
    request: object = ctx.request_context.request
    if request is None:
        return LOCAL
    user = request.scope.get("user") if isinstance(request, HttpRequest) else None
    if not isinstance(user, AuthenticatedUser):
        raise RuntimeError("a request reached the tools without authentication")
    return Owner(user.access_token.client_id)


def authority_of(ctx: Ctx) -> str | None:
    """Return the name and port by which the client reached the server; None over stdio."""
    request: object = ctx.request_context.request
    return request.headers.get("host", "") if isinstance(request, HttpRequest) else None


def owner_of(ctx: Request) -> Owner:
    """Return the owner who sends a request other than a tool call."""
    return current_owner(Context(request_context=ctx))


def whole_arguments(request: object, given: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments; of a large call, those that `waggle.web` parsed. Call it once."""
    large = request.scope.pop(ARGUMENTS, None) if isinstance(request, HttpRequest) else None
    return given if large is None else cast("dict[str, Any]", large)


class Reports(Protocol):
    """The receiver of progress: a client, through its `Ctx`, or the calls that wait for work."""

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None, /
    ) -> None:
        """Report how far the work is, and what it does."""
        ...


def reporter(ctx: Reports, total: float | None = 1.0) -> Progress:
    """Return a function that sends a service's progress to the client, if the client wants it.

    A client that does not take a report within SLOWEST_REPORT gets no more of them.
    """
    takes = True

    async def report(share: float, message: str) -> None:
        nonlocal takes
        if takes:
            with anyio.move_on_after(SLOWEST_REPORT) as waiting:
                await ctx.report_progress(share, total, message)
            takes = not waiting.cancelled_caught

    return report


async def with_heartbeat(
    ctx: Reports,
    message: Callable[[], str],
    every: float,
    work: Awaitable[T],
    *,
    since: float = 0.0,
) -> T:
    """Await `work`, and report to the client every `every` seconds that it still runs.

    So clients with a time limit for silence keep waiting. Progress counts from `since` seconds.
    An exception of `work` may come wrapped in a group of one. Cancelling cancels the work.
    """

    async def beat() -> None:
        beats = 0
        while True:
            await anyio.sleep(every)
            beats += 1
            await ctx.report_progress(
                since + beats * every, None, f"{message()}, {beats * every:g} s"
            )

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        try:
            return await work
        finally:
            group.cancel_scope.cancel()
    raise AssertionError("unreachable: the group never swallows an exception")


_MAX_LINE = 120


async def attend(
    ctx: Reports, job: Job, seconds: float, *, every: float, doing: str, since: float = 0.0
) -> JobView:
    """Wait as the call that started the job, reporting its output; see `Job.attend`.

    `since` is the client's progress so far, in seconds.
    """
    work = job.attend(seconds, partial(waited, ctx, job))
    return await with_heartbeat(ctx, lambda: _doing(job, doing), every, work, since=since)


class Phases:
    """The progress of a call with several steps, in seconds that only grow."""

    def __init__(self, ctx: Reports, heartbeat: float) -> None:
        self._ctx = ctx
        self._report = reporter(ctx, None)
        self._heartbeat = heartbeat
        self._start = anyio.current_time()

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return anyio.current_time() - self._start

    async def say(self, message: str) -> None:
        """Report that a phase begins."""
        await self._report(self.elapsed, message)

    async def creating(self, _share: float, message: str) -> None:
        """Report the progress of creating an environment as a step of this call."""
        await self.say(message)

    async def attend(self, job: Job, doing: str) -> JobView:
        """Wait for a job of the call, as one phase."""
        await self.say(doing)
        return await attend(
            self._ctx, job, math.inf, every=self._heartbeat, doing=doing, since=self.elapsed
        )


@dataclass(frozen=True, slots=True)
class PassedOn:
    """Reports for the call that waits for shared work, which may later be another call."""

    report: Progress

    async def report_progress(
        self, progress: float, _total: float | None = None, message: str | None = None, /
    ) -> None:
        """Pass the progress on."""
        await self.report(progress, message or "")


async def follow(ctx: Ctx, job: Job, seconds: float, *, every: float, doing: str) -> JobView:
    """Wait as a call that can be repeated: cancelling leaves the job. Raises the guest's error."""
    await with_heartbeat(ctx, lambda: _doing(job, doing), every, waited(ctx, job, seconds))
    return job.outcome()


async def watch(ctx: Ctx, job: Job, seconds: float, *, every: float) -> None:
    """Wait as a call that did not start the job: cancelling it leaves the job running."""
    await with_heartbeat(ctx, lambda: _doing(job, "running"), every, waited(ctx, job, seconds))


def _doing(job: Job, doing: str) -> str:
    """Return `doing` with the last line of output."""
    for name in (StreamName.STDOUT, StreamName.STDERR):
        if line := last_line(job.streams[name].last_line()):
            return f"{doing}: {clean(line, _MAX_LINE)}"
    return doing
