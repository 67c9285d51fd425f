# SPDX-License-Identifier: Apache-2.0
"""Changes of resources, on their way from the services to the clients that watch them.

The services notify `Changes` when a program prints, displays, starts or ends, when environments
appear, fail and end, and when a file changes that a client watches; `Changes` ends the watch of a
file with its last watcher. A `Watcher` is one listening client, a 2025 session or a stream of
2026-07-28; `subscriptions` opens and closes it, and begins the watches of files. `Pace` limits
notifications to one per second and resource, and always sends the last change. Nothing here waits
for a client: a watcher sends in its own task, which exists only while there is something to send.
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
from waggle.domain.files.guest_files import Names
from waggle.domain.programs.job import DISPLAYS, Recorded, StreamName
from waggle.mcp.uris import DisplaysAddress, EnvironmentAddress, FileAddress, StreamAddress
from waggle.service.environments.service import EnvironmentService
from waggle.service.files.watches import WatchService
from waggle.service.programs import Job
from waggle.service.programs.jobs import JobService

SECONDS = 1.0
_Marked = TypeVar("_Marked", bound=Hashable)


class Pace(Generic[_Marked]):
    """The events to send, at most one of a kind per `SECONDS` unless it is final.

    Pure: the caller passes the time.
    """

    def __init__(self) -> None:
        self._due: dict[_Marked, float] = {}
        self._sent: dict[_Marked, float] = {}

    def mark(self, event: _Marked, now: float, *, final: bool = False) -> None:
        """Note a change. A final one is due at once, because no later event may follow."""
        earliest = now if final else self._sent.get(event, -math.inf) + SECONDS
        self._due[event] = min(earliest, self._due.get(event, math.inf))

    def take(self, now: float) -> list[_Marked]:
        """Remove and return the events that are due, and count them as sent now."""
        self._sent = {event: at for event, at in self._sent.items() if at + SECONDS > now}
        ready = [event for event, at in self._due.items() if at <= now]
        for event in ready:
            del self._due[event]
            self._sent[event] = now
        return ready

    def next(self) -> float | None:
        """Return the time of the next event; None if there is none."""
        return min(self._due.values(), default=None)


Key = EnvironmentAddress | StreamAddress | DisplaysAddress | FileAddress
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
        self._files: WatchService | None = None

    def follow(
        self, environments: EnvironmentService, jobs: JobService, files: WatchService
    ) -> None:
        """Receive the changes of these services from now on."""
        environments.events.when_changed(self._environment)
        jobs.when_changed(self._job)
        files.when_changed(self._file)
        self._files = files

    @property
    def watchers(self) -> frozenset[Watcher]:
        """The open watchers."""
        return frozenset(self._watchers)

    def watch(self, owner: Owner, send: Send, tasks: anyio.abc.TaskGroup) -> Watcher:
        """Return a new watcher without subscriptions. The caller closes it."""
        watcher = Watcher(self, owner, send, tasks)
        self._watchers.add(watcher)
        return watcher

    def enter(self, watcher: Watcher, key: Key | None) -> None:
        """Notify `watcher` of a resource or, without a key, of the list. For `Watcher`."""
        if key is None:
            self._lists.setdefault(watcher.owner, set()).add(watcher)
        else:
            of = self._watched.setdefault(key.environment_id, {})
            of.setdefault(key, set()).add(watcher)

    def leave(self, watcher: Watcher, key: Key | None) -> None:
        """Undo `enter`. Idempotent."""
        if key is None:
            _discard(self._lists, watcher.owner, watcher)
        elif of := self._watched.get(key.environment_id):
            _discard(of, key, watcher)
            if key not in of and isinstance(key, FileAddress) and self._files is not None:
                self._files.end(key.environment_id, key.path)
            if not of:
                del self._watched[key.environment_id]

    def closed(self, watcher: Watcher) -> None:
        """Forget a watcher. For `Watcher`."""
        self._watchers.discard(watcher)

    def _job(self, job: Job, recorded: Recorded | None) -> None:
        if job.environment_id not in self._watched:
            return
        is_final = recorded is None
        for name in [*StreamName, DISPLAYS] if recorded is None else [recorded]:
            of = (job.environment_id, job.number)
            is_stream = isinstance(name, StreamName)
            key = StreamAddress(*of, name) if is_stream else DisplaysAddress(*of)
            self._mark([key], final=is_final)
        if is_final:
            self._mark([EnvironmentAddress(job.environment_id)])

    def _file(self, environment_id: str, path: str, _names: Names) -> None:
        self._mark([FileAddress(environment_id, path)])

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
    """Remove a watcher from its set, and the set if it is empty."""
    if members := sets.get(key):
        members.discard(watcher)
        if not members:
            del sets[key]


class Watcher:
    """One client that is notified of changes. Not for two tasks at once; `close` it."""

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
        """Return the number of watched resources."""
        return len(self._uris)

    def __contains__(self, key: Key) -> bool:
        """Whether the resource is watched."""
        return key in self._uris

    def add(self, key: Key, uri: str) -> None:
        """Watch a resource, under the URI that the client used. Idempotent."""
        self._uris[key] = uri
        self._changes.enter(self, key)

    def remove(self, key: Key) -> None:
        """Stop watching a resource. Idempotent."""
        self._changes.leave(self, key)
        self.forget(key)

    def forget(self, key: Key) -> None:
        """Forget a resource that is gone; pending events are still sent. For `Changes`."""
        self._uris.pop(key, None)

    def add_list(self) -> None:
        """Watch the list of environments. Idempotent."""
        self._changes.enter(self, None)

    def mark(self, key: Key | None, *, final: bool = False) -> None:
        """Schedule a notification of a change. Does nothing after `close`."""
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
            log.exception("notification_failed")
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
        """Watch nothing and send nothing from now on. Idempotent."""
        self._closed = True
        if self._sending is not None:
            self._sending.cancel()
        for key in [*self._uris]:
            self.remove(key)
        self._changes.leave(self, None)
        self._changes.closed(self)
