# SPDX-License-Identifier: Apache-2.0
"""Watches of files and directories in environments, for those who show them while they change.

Called by `waggle.mcp.resources`, which counts who wants which: there is one watch of a path in an
environment. A watch is no use of the environment: it does not keep it from being paused or
destroyed when idle, and does not resume it. It ends at a pause and begins again after it, as it
does when its path is gone or the guest fails, ever more slowly. Environments end theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import QuotaExceeded, TimedOut, WaggleError
from waggle.domain.files import parse_path
from waggle.domain.files.guest_files import Names
from waggle.domain.host import Guest
from waggle.service.environments.service import EnvironmentService

MAX_OF_ENVIRONMENT: Final = 8
MAX_OF_OWNER: Final = 32
BEGIN_SECONDS: Final = 20.0
SHORTEST, LONGEST = 1.0, 60.0
"""Seconds until a watch that has ended begins again: twice as many each time."""
log = structlog.get_logger(__name__)

Notify = Callable[[str, str, Names], None]
"""Called with the environment's id, the watched path and the names below it. Must not wait."""


@dataclass(slots=True, eq=False)
class _Watch:
    """A watch. `decided` is set once it has begun or failed, or has to wait for a resume."""

    environment_id: str
    path: str
    owner: str
    decided: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    woken: anyio.Event = field(default_factory=anyio.Event)


class WatchService:
    """All watches of one server. Their tasks run in `tasks`, and no failure of theirs ends it."""

    def __init__(
        self,
        environments: EnvironmentService,
        tasks: anyio.abc.TaskGroup,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        patience: float = BEGIN_SECONDS,
    ) -> None:
        """`patience` is how many seconds `begin` waits for the guest."""
        self._environments = environments
        self._tasks = tasks
        self._sleep = sleep
        self._patience = patience
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._listeners: list[Notify] = []
        environments.events.when_changed(self._environment)

    def when_changed(self, notify: Notify) -> None:
        """Call `notify` when something that is watched changes."""
        self._listeners.append(notify)

    async def begin(self, environment_id: str, path: str, *, owner: str) -> None:
        """Watch a path until `end`. Idempotent; returns once no later change is missed.

        In an environment that does not run, it begins when that is resumed. Raises NotFound,
        QuotaExceeded, InvalidArgument, FileNotFound, FileRefused, Unsupported, TimedOut or
        GuestLost.
        """
        parse_path(path)
        environment = self._environments.get(environment_id, owner=owner)
        watch = self._watches.get((environment.id, path))
        if watch is None:
            watch = self._new(environment, path)
        with anyio.move_on_after(self._patience):
            await watch.decided.wait()
        if watch.error is not None:
            raise watch.error
        if not watch.decided.is_set():
            raise TimedOut("The guest does not begin to watch the files.", hint="Try again later.")

    def end(self, environment_id: str, path: str) -> None:
        """End a watch. Idempotent. The environment is the caller's: `begin` has checked that."""
        watch = self._watches.pop((environment_id, path), None)
        if watch is not None:
            watch.scope.cancel()

    def _new(self, environment: Environment, path: str) -> _Watch:
        """Start a watch. Raises QuotaExceeded."""
        owned = [watch for watch in self._watches.values() if watch.owner == environment.owner]
        inside = [watch for watch in owned if watch.environment_id == environment.id]
        if len(inside) >= MAX_OF_ENVIRONMENT or len(owned) >= MAX_OF_OWNER:
            raise QuotaExceeded(
                f"At most {MAX_OF_ENVIRONMENT} paths of an environment can be watched, and "
                f"{MAX_OF_OWNER} of one owner.",
                hint="Subscribe to a directory above them, and unsubscribe from what is not shown.",
            )
        watch = _Watch(environment.id, path, environment.owner)
        self._watches[environment.id, path] = watch
        self._tasks.start_soon(self._run, watch)
        return watch

    async def _run(self, watch: _Watch) -> None:
        try:
            with watch.scope:
                await self._keep(watch)
        finally:
            if self._watches.get((watch.environment_id, watch.path)) is watch:
                del self._watches[watch.environment_id, watch.path]
            watch.decided.set()

    async def _keep(self, watch: _Watch) -> None:
        """Watch again and again, until cancelled or the first attempt fails."""
        delay = SHORTEST
        while True:
            watch.woken = anyio.Event()
            life = self._environments.life(watch.environment_id)
            guest = life.current_guest if life else None
            if guest is None:
                watch.decided.set()
                delay = SHORTEST
                with anyio.move_on_after(LONGEST):
                    await watch.woken.wait()
                continue
            began = anyio.current_time()
            error = await self._once(watch, guest)
            if error is not None and not watch.decided.is_set():
                watch.error = error
                return
            watch.decided.set()
            lasted = anyio.current_time() - began
            delay = SHORTEST if lasted > LONGEST else min(2 * delay, LONGEST)
            await self._sleep(delay)

    async def _once(self, watch: _Watch, guest: Guest) -> Exception | None:
        """Watch until it ends; return its error. The first of all notifications is the begin's."""

        def changed(names: Names) -> None:
            if watch.decided.is_set():
                self._notify(watch, names)
            watch.decided.set()

        try:
            await guest.watch(watch.path, changed)
        except WaggleError as error:
            log.info("watch_ended", environment=watch.environment_id, error=error.code)
            return error
        except Exception as error:
            log.exception("watch_failed", environment=watch.environment_id)
            return error
        return None

    def _notify(self, watch: _Watch, names: Names) -> None:
        for notify in self._listeners:
            notify(watch.environment_id, watch.path, names)

    def _environment(self, environment: Environment) -> None:
        for key, watch in [*self._watches.items()]:
            if watch.environment_id != environment.id:
                continue
            if environment.state is State.DESTROYED:
                self.end(*key)
            else:
                watch.woken.set()
