# SPDX-License-Identifier: Apache-2.0
"""What a tool learns from its request: who calls, and where progress goes.

Called by `waggle.mcp.tools` and `waggle.mcp.server`. Callers were authenticated by `waggle.web`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from starlette.requests import Request as HttpRequest

from waggle.domain.access import LOCAL, Owner
from waggle.domain.host import Progress
from waggle.domain.observer import Observer
from waggle.domain.toolset import CHOSEN, Offer
from waggle.large import ARGUMENTS
from waggle.service.environments.provision import PortService
from waggle.service.environments.service import EnvironmentService
from waggle.service.environments.snapshots import SnapshotService
from waggle.service.files.files import FilesystemService
from waggle.service.files.trees import TreeService
from waggle.service.idempotency import Repeats
from waggle.service.programs.execution import ExecutionLimits, ExecutionService
from waggle.service.programs.jobs import JobService
from waggle.service.sharing import RateLimiter

if TYPE_CHECKING:
    from waggle.mcp.results.images import Album
    from waggle.service.programs.job import Job

Ctx = Context[Any, Any]
Request = ServerRequestContext[dict[str, Any], Any]
"""What the low-level server hands to handlers other than those of tools."""
T = TypeVar("T")

HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases behind the tools, and the limits that their descriptions state.

    `heartbeat` is seconds between progress reports of work whose end is not known, `offer` what
    clients are shown that do not choose. `albums` know the images that jobs are looked at for.
    """

    environments: EnvironmentService
    snapshots: SnapshotService
    execution: ExecutionService
    jobs: JobService
    filesystem: FilesystemService
    repeats: Repeats
    trees: TreeService
    ports: PortService
    execution_limits: ExecutionLimits
    heartbeat: float = HEARTBEAT_SECONDS
    rates: RateLimiter | None = None
    observer: Observer = field(default_factory=Observer)
    offer: Offer = field(default_factory=Offer)
    albums: WeakKeyDictionary[Job, Album] = field(default_factory=WeakKeyDictionary["Job", "Album"])
    parameter_headers: bool = False
    """Whether clients repeat environment_id in a header."""

    @property
    def when_unused(self) -> str:
        """What becomes of an environment when its idle time is over, to follow "is"."""
        return "paused to disk" if self.environments.sleep_when_idle else "destroyed"


def current_owner(ctx: Ctx) -> Owner:
    """Whose environments this request may see; without HTTP (stdio), those of the one owner there.

    Raises RuntimeError for an HTTP request that nobody has let in, which would be a bug.
    """
    request: object = ctx.request_context.request
    if request is None:
        return LOCAL
    user = request.scope.get("user") if isinstance(request, HttpRequest) else None
    if not isinstance(user, AuthenticatedUser):
        raise RuntimeError("a request reached the tools without authentication")
    return Owner(user.access_token.client_id)


def chosen_offer(request: object) -> Offer | None:
    """What the client of this HTTP request chose to be offered; None if it did not choose."""
    offer = request.scope.get(CHOSEN) if isinstance(request, HttpRequest) else None
    return offer if isinstance(offer, Offer) else None


def whole_arguments(request: object, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call; those of a large one were read by `waggle.web`, and once."""
    large = request.scope.pop(ARGUMENTS, None) if isinstance(request, HttpRequest) else None
    return given if large is None else cast("dict[str, Any]", large)


class Reports(Protocol):
    """Who is told how a call gets on: the client, through its `Ctx`, or whoever waits."""

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None, /
    ) -> None:
        """How far it is, and with what."""
        ...


def reporter(ctx: Ctx, total: float | None = 1.0) -> Progress:
    """Pass a service's progress on to the client; does nothing unless the client asked for it."""

    async def report(share: float, message: str) -> None:
        await ctx.report_progress(share, total, message)

    return report


async def with_heartbeat(
    ctx: Reports,
    message: Callable[[], str],
    every: float,
    work: Awaitable[T],
    *,
    since: float = 0.0,
) -> T:
    """Await `work`, telling the client every so many seconds that it goes on.

    Clients with a time limit for silence keep waiting. Progress counts from `since` seconds.
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
