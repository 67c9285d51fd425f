# SPDX-License-Identifier: Apache-2.0
"""Who hears of environments that come, change and go. Told by `EnvironmentService` only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from waggle.domain.environment import Environment, State
from waggle.domain.errors import WaggleError
from waggle.domain.observer import CANCELLED, Clock, Observer


class News:
    """Passes on what happens, at once. Those who listen must not raise or wait."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self._removed: list[Callable[[str], None]] = []
        self._changed: list[Callable[[Environment], None]] = []

    def when_removed(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the id of each environment that is gone."""
        self._removed.append(tell)

    def when_changed(self, tell: Callable[[Environment], None]) -> None:
        """Call `tell` with each environment that runs, has failed or died, or is gone."""
        self._changed.append(tell)

    def tell(self, environment: Environment) -> None:
        """Its state is another now."""
        if environment.state is State.DESTROYED:
            for removed in self._removed:
                removed(environment.id)
        for changed in self._changed:
            changed(environment)

    @contextlib.contextmanager
    def creating(self) -> Generator[None]:
        """Tell the observer how the create in the block ended, and how long it took."""
        began = self._clock()
        try:
            yield
        except BaseException as error:
            crashed = "internal" if isinstance(error, Exception) else CANCELLED
            self._observer.create_failed(error.code if isinstance(error, WaggleError) else crashed)
            raise
        self._observer.environment_created((self._clock() - began).total_seconds())
