# SPDX-License-Identifier: Apache-2.0
"""Who wants to hear of which resource, and what happens: from services to clients.

`Changes` is told by the services when a program prints, starts or ends and when environments come,
die and go. A `Watcher` is one client that listens, a 2025 session or a stream of 2026-07-28; the
handlers in `subscriptions` open and close it. Nothing here waits for a client: each watcher sends
in a task of its own, which lives only while there is something to send.

When a client is told of changes: at most once per second about one thing, and of the last one.

Pure: the caller brings the time. Used by `changes`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, TypeVar

import anyio
import anyio.abc
import structlog
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated

from waggle.domain.access import Owner
from waggle.domain.environment import Environment, State
from waggle.domain.programs.job import StreamName
from waggle.mcp.uris import EnvironmentAddress, StreamAddress
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs.job import Job
from waggle.service.programs.jobs import JobService

SECONDS = 1.0
_Marked = TypeVar("_Marked", bound=Hashable)


class Pace(Generic[_Marked]):
    """Events that are to be told, each at most once per `SECONDS` unless it is final."""

    def __init__(self) -> None:
        self._due: dict[_Marked, float] = {}
        self._told: dict[_Marked, float] = {}

    def mark(self, event: _Marked, now: float, *, final: bool = False) -> None:
        """Something changed. What is final is told at once: nothing may follow that would tell."""
        earliest = now if final else self._told.get(event, -math.inf) + SECONDS
        self._due[event] = min(earliest, self._due.get(event, math.inf))

    def take(self, now: float) -> list[_Marked]:
        """What is to be told now; it counts as told."""
        self._told = {each: at for each, at in self._told.items() if at + SECONDS > now}
        ready = [event for event, at in self._due.items() if at <= now]
        for event in ready:
            del self._due[event]
            self._told[event] = now
        return ready

    def next(self) -> float | None:
        """When there is something to tell; None while there is nothing."""
        return min(self._due.values(), default=None)


Key = EnvironmentAddress | StreamAddress
Event = ResourceUpdated | ResourcesListChanged
Send = Callable[[Event], Awaitable[None]]
K = TypeVar("K")
log = structlog.get_logger(__name__)
_LIST = ResourcesListChanged()


class Changes:
    """All watchers of one server."""

    def __init__(self) -> None:
        self._watched: dict[str, dict[Key, set[Watcher]]] = {}
        self._lists: dict[Owner, set[Watcher]] = {}
        self._watchers: set[Watcher] = set()

    def follow(self, environments: EnvironmentService, jobs: JobService) -> None:
        """Hear of what happens from now on."""
        environments.news.when_changed(self._environment)
        jobs.when_changed(self._job)

    @property
    def watchers(self) -> frozenset[Watcher]:
        """Those that are open."""
        return frozenset(self._watchers)

    def watch(self, owner: Owner, send: Send, tasks: anyio.abc.TaskGroup) -> Watcher:
        """A watcher that has asked for nothing yet. The caller closes it."""
        watcher = Watcher(self, owner, send, tasks)
        self._watchers.add(watcher)
        return watcher

    def enter(self, watcher: Watcher, key: Key | None) -> None:
        """Tell `watcher` of a resource or, without a key, of the list. For `Watcher`."""
        if key is None:
            self._lists.setdefault(watcher.owner, set()).add(watcher)
        else:
            of = self._watched.setdefault(key.environment_id, {})
            of.setdefault(key, set()).add(watcher)

    def leave(self, watcher: Watcher, key: Key | None) -> None:
        """The opposite of `enter`. Idempotent."""
        if key is None:
            _discard(self._lists, watcher.owner, watcher)
        elif of := self._watched.get(key.environment_id):
            _discard(of, key, watcher)
            if not of:
                del self._watched[key.environment_id]

    def closed(self, watcher: Watcher) -> None:
        """Forget it. For `Watcher`."""
        self._watchers.discard(watcher)

    def _job(self, job: Job, stream: StreamName | None) -> None:
        if job.environment_id not in self._watched:
            return
        streams = list(StreamName) if stream is None else [stream]
        keys = [StreamAddress(job.environment_id, job.number, name) for name in streams]
        self._mark(keys, final=stream is None)
        if stream is None:
            self._mark([EnvironmentAddress(job.environment_id)])

    def _mark(self, keys: Iterable[Key], *, final: bool = False) -> None:
        for key in keys:
            for watcher in self._watched.get(key.environment_id, {}).get(key, ()):
                watcher.mark(key, final=final)

    def _environment(self, environment: Environment) -> None:
        for watcher in self._lists.get(Owner(environment.owner), ()):
            watcher.mark(None)
        if environment.state is not State.DESTROYED:
            self._mark([EnvironmentAddress(environment.id)])
            return
        for key, watchers in self._watched.pop(environment.id, {}).items():
            for watcher in watchers:
                watcher.mark(key, final=True)
                watcher.forget(key)


def _discard(sets: dict[K, set[Watcher]], key: K, watcher: Watcher) -> None:
    """Take it out of its set, and leave no empty set behind."""
    if members := sets.get(key):
        members.discard(watcher)
        if not members:
            del sets[key]


class Watcher:
    """One client that hears of changes. Not for two tasks at once; `close` it."""

    def __init__(
        self, changes: Changes, owner: Owner, send: Send, tasks: anyio.abc.TaskGroup
    ) -> None:
        self.owner = owner
        self._changes = changes
        self._send = send
        self._tasks = tasks
        self._uris: dict[Key, str] = {}
        self._pace: Pace[Event] = Pace()
        self._sending: anyio.CancelScope | None = None
        self._more = anyio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Resources that it hears of."""
        return len(self._uris)

    def __contains__(self, key: Key) -> bool:
        """Whether it hears of this one."""
        return key in self._uris

    def add(self, key: Key, uri: str) -> None:
        """Hear of a resource, under the name that the client used. Idempotent."""
        self._uris[key] = uri
        self._changes.enter(self, key)

    def remove(self, key: Key) -> None:
        """Hear of it no more. Idempotent."""
        self._changes.leave(self, key)
        self.forget(key)

    def forget(self, key: Key) -> None:
        """It is gone; what is to be told of it still is. For `Changes`."""
        self._uris.pop(key, None)

    def add_list(self) -> None:
        """Hear of environments that come and go. Idempotent."""
        self._changes.enter(self, None)

    def mark(self, key: Key | None, *, final: bool = False) -> None:
        """Tell the client of a change, soon."""
        if self._closed:
            return
        event = _LIST if key is None else ResourceUpdated(self._uris[key])
        before = self._pace.next()
        self._pace.mark(event, anyio.current_time(), final=final)
        if self._pace.next() != before:
            self._more.set()
        if self._sending is None:
            self._sending = anyio.CancelScope()
            self._tasks.start_soon(self._run, self._sending)

    async def _run(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await self._send_all()
        except Exception:
            log.exception("change_not_told")
            self.close()
        finally:
            self._sending = None

    async def _send_all(self) -> None:
        while (due := self._pace.next()) is not None:
            self._more = anyio.Event()
            with anyio.move_on_after(due - anyio.current_time()):
                await self._more.wait()
            for event in self._pace.take(anyio.current_time()):
                await self._send(event)

    def close(self) -> None:
        """Hear of nothing more, and send nothing more. Idempotent."""
        self._closed = True
        if self._sending is not None:
            self._sending.cancel()
        for key in [*self._uris]:
            self.remove(key)
        self._changes.leave(self, None)
        self._changes.closed(self)
