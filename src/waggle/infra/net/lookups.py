# SPDX-License-Identifier: Apache-2.0
"""Threads in which the host's resolver blocks, shared fairly by all environments.

Built once by the composition root and used by each environment's `resolve.SystemResolver`. Must not
know what is looked up: the blocking call is injected.

A lookup cannot be stopped. So a guest whose names are never answered holds its threads until the
host's resolver gives up, and what it can hold has to be its own: each environment has one thread
for itself, and of the shared ones at most as many as it leaves free. One alone so has half of them,
four have a fifth each, and the next one still finds as much as any of them has.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, MutableMapping, Sequence

from waggle.infra.net.ranges import Address

Found = Sequence[Address] | OSError
"""What a name has; an error is a value here, since nobody may be there any more to hear of it."""
SHARED = 48
RESOLVER_OPTIONS = "timeout:2 attempts:2"
"""For the C library (RES_OPTIONS): its own times, 5 s and twice, outlast everyone who waits."""


def may_start(held: int, shared_taken: int, shared: int) -> bool:
    """Whether an environment that holds so many threads may have another one. Pure."""
    return held == 0 or held - 1 < shared - shared_taken


def limit_resolver(environ: MutableMapping[str, str]) -> None:
    """Have the C library give up before those who wait do, unless the operator chose otherwise."""
    environ.setdefault("RES_OPTIONS", RESOLVER_OPTIONS)


class Lookup:
    """One question, and how many wait for the answer."""

    def __init__(self, asker: Hashable, name: str) -> None:
        self.asker = asker
        self.name = name
        self.found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting = 0

    async def answer(self, leave: Callable[[Lookup], None]) -> Found:
        """What is found. `leave` is called when nobody waits any more. May be cancelled."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.found)
        finally:
            self._waiting -= 1
            if not self._waiting and not self.found.done():
                leave(self)


class Lookups:
    """Runs `lookup`, which blocks and raises OSError, in daemon threads. Lives on one event loop.

    There are at most `shared` threads and one for each environment that asks. Nothing waits for
    them at the end of the server.
    """

    def __init__(self, lookup: Callable[[str], Sequence[Address]], *, shared: int = SHARED) -> None:
        self._lookup = lookup
        self._shared = shared
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[Lookup]] = {}
        """Who asks for more than it may have now; whose turn it is comes first."""

    @property
    def running(self) -> int:
        """Threads at work."""
        return self._held.total()

    def start(self, asker: Hashable, name: str) -> Lookup:
        """Begin to look up `name`, now or when it is the turn of `asker`."""
        lookup = Lookup(asker, name)
        self._waiting.setdefault(asker, deque()).append(lookup)
        self._go_on()
        return lookup

    def leave(self, lookup: Lookup) -> None:
        """Nobody waits for it any more: forget it, unless it runs; its answer is still good."""
        queue = self._waiting.get(lookup.asker, deque())
        with contextlib.suppress(ValueError):
            queue.remove(lookup)
            lookup.found.cancel()
        if not queue:
            self._waiting.pop(lookup.asker, None)

    def _go_on(self) -> None:
        """Start whatever may start now, in turn."""
        passed_over = 0
        while passed_over < len(self._waiting):
            asker = next(iter(self._waiting))
            queue = self._waiting.pop(asker)
            if may_start(self._held[asker], self.running - len(self._held), self._shared):
                self._run(queue.popleft())
                passed_over = 0
            else:
                passed_over += 1
            if queue:
                self._waiting[asker] = queue

    def _run(self, lookup: Lookup) -> None:
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                found: Found = self._lookup(lookup.name)
            except OSError as error:
                found = error
            except Exception as error:  # whatever it is: the thread is to be given back
                found = OSError(f"the resolver failed: {type(error).__name__}")
            with contextlib.suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(self._ended, lookup, found)

        self._held[lookup.asker] += 1
        try:
            threading.Thread(target=work, name="waggle-dns", daemon=True).start()
        except RuntimeError as error:
            loop.call_soon(self._ended, lookup, OSError(str(error)))

    def _ended(self, lookup: Lookup, found: Found) -> None:
        self._held[lookup.asker] -= 1
        if not self._held[lookup.asker]:
            del self._held[lookup.asker]
        if not lookup.found.done():
            lookup.found.set_result(found)
        self._go_on()
