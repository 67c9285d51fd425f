# SPDX-License-Identifier: Apache-2.0
"""What a machine reports about itself, and its owner sees as a notice without a call.

`Noticing` is the part of `LiveEnvironment` that listens to its guest: a disk of the server that
refuses writes, and a guest that misbehaved. It changes no state, and awaits nothing.
"""

from __future__ import annotations

import structlog

from waggle.domain.environment import State
from waggle.domain.errors import DiskFull, GuestMisbehaves
from waggle.domain.host import Guest
from waggle.service.environments.ending import LIVING, Life

log = structlog.get_logger(__name__)


class Noticing(Life):
    """An environment with the notices of its guest."""

    _stalled: DiskFull | None = None
    _misconduct: str | None = None

    def _take_in(self, guest: Guest) -> None:
        super()._take_in(guest)
        self._stalled = self._misconduct = None
        guest.when_misbehaves(self._misbehaves)
        guest.when_stalled(self._stall)

    def _stall(self, why: DiskFull | None) -> None:
        """Note that the server's disk refuses a write of the machine, or with None, accepts it."""
        self._stalled = why
        if self.environment.state not in LIVING:
            return
        self.environment = self.environment.noticing(why.message if why else self._misconduct)
        if why is None:
            if self.environment.state is State.RUNNING:  # it could not be used meanwhile
                self.environment = self.environment.used(self._clock())
            log.info("environment_unstalled", environment=self.environment.id)
        else:
            log.error("environment_stalled", environment=self.environment.id, why=why.message)
        self._changed(self.environment)

    def _misbehaves(self, error: GuestMisbehaves) -> None:
        """Note that the guest is unusable, so that the owner sees it without a call."""
        self._misconduct = str(error)
        if self.environment.state in LIVING:
            self.environment = self.environment.noticing(self._misconduct)
            how = error.message
            log.warning("environment_misbehaves", environment=self.environment.id, how=how)
            self._changed(self.environment)

    def require_unstalled(self) -> None:
        """Raise DiskFull while its machine is stopped by a full disk."""
        if self._stalled is not None:
            raise DiskFull(self._stalled.message, hint=self._stalled.hint)

    @property
    def is_stalled(self) -> bool:
        """Whether its machine is stopped until the server's disk accepts its write."""
        return self._stalled is not None and self.environment.state is State.RUNNING
