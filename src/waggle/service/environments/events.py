# SPDX-License-Identifier: Apache-2.0
"""Notices of what happens to environments, for other use cases.

`EnvironmentService` has one `Events`, which `LiveEnvironment` calls and other use cases register
with. It knows nothing of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator
from typing import Final

import anyio

from waggle.domain.environment import Environment, State
from waggle.domain.errors import WaggleError
from waggle.domain.host import Guest
from waggle.domain.observer import CANCELLED, Clock, Observer
from waggle.service.environments.ending import Adopt, Equip, equip_nothing

SETTLES_IN_TURN: Final = 1.0
"""Seconds to settle at most while a machine has its turn: it has settled before, so little is left.

Others wait for that turn, and the guest decides how long this takes.
"""


class Events:
    """Calls listeners, at once, when an environment changes. They must not raise or wait.

    Only those that take over a guest's jobs may wait; see `Adopt`.
    """

    def __init__(self, observer: Observer, clock: Clock, equip: Equip = equip_nothing) -> None:
        self.equip = equip
        """See `Equip`; it may wait, too."""
        self._observer = observer
        self._clock = clock
        self._removed: list[Callable[[str], None]] = []
        self._changed: list[Callable[[Environment], None]] = []
        self._adopters: list[Adopt] = []
        self._settling: list[Callable[[str], Awaitable[None]]] = []
        self._losing: list[Callable[[str, WaggleError], None]] = []

    def when_adopted(self, adopt: Adopt) -> None:
        """Call `adopt` with every guest that has jobs of another machine or server."""
        self._adopters.append(adopt)

    def when_lost(self, lose: Callable[[str, WaggleError], None]) -> None:
        """Call `lose` with an id when all that ran in it has ended, and why."""
        self._losing.append(lose)

    def lose(self, environment_id: str, error: WaggleError) -> None:
        """See `when_lost`."""
        for lose in self._losing:
            lose(environment_id, error)

    def when_frozen(self, settle: Callable[[str], Awaitable[None]]) -> None:
        """Call `settle` with an id before its machine is paused or copied; bounded in time."""
        self._settling.append(settle)

    async def settle(self, environment_id: str, at_most: float | None = None) -> None:
        """See `when_frozen`. Waits for the guest, with `at_most` no longer than that."""
        with anyio.move_on_after(at_most):
            for settle in self._settling:
                await settle(environment_id)

    async def adopt(self, environment: Environment, guest: Guest, *, anew: bool) -> None:
        """See `Adopt`."""
        for adopt in self._adopters:
            await adopt(environment, guest, anew=anew)

    def when_removed(self, notify: Callable[[str], None]) -> None:
        """Call `notify` with the id of every environment that is destroyed."""
        self._removed.append(notify)

    def when_changed(self, notify: Callable[[Environment], None]) -> None:
        """Call `notify` with every environment whose state, or notice but for a number, changes."""
        self._changed.append(notify)

    def notify(self, environment: Environment) -> None:
        """Notify of an environment whose state or notice has changed."""
        if environment.state is State.DESTROYED:
            for removed in self._removed:
                removed(environment.id)
        for changed in self._changed:
            changed(environment)

    @contextlib.contextmanager
    def creating(self) -> Generator[None]:
        """Report to the observer how the create in the block ended, and how long it took."""
        began = self._clock()
        try:
            yield
        except BaseException as error:
            crashed = "internal" if isinstance(error, Exception) else CANCELLED
            self._observer.create_failed(error.code if isinstance(error, WaggleError) else crashed)
            raise
        self._observer.environment_created((self._clock() - began).total_seconds())
