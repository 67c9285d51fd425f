# SPDX-License-Identifier: Apache-2.0
"""The interface to frozen machines, and its implementation where machines cannot be frozen.

The composition root chooses `Moments` for a hypervisor that freezes machines, else `CannotFreeze`.
Callers use either one and need not ask which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NoReturn, Protocol

from waggle.domain.errors import Unsupported
from waggle.domain.machine import Machine, MachineSpec
from waggle.service.local.blueprint import MadeOf, StartedMachine
from waggle.service.local.frozen.moments import Moment


class Freezing(Protocol):
    """Freezes machines, keeps them, and resumes copies of them.

    Every method but `sweep` raises Unsupported if machines cannot be frozen.
    """

    @property
    def can_freeze(self) -> bool:
        """Whether machines can be frozen."""
        ...

    def taken(self, started: StartedMachine) -> AbstractAsyncContextManager[Moment]:
        """See `Moments.taken`."""
        ...

    async def hibernate(self, started: StartedMachine) -> None:
        """See `Moments.hibernate`."""
        ...

    async def keep(self, moment: Moment, directory: Path, facts: Mapping[str, object]) -> None:
        """See `Moments.keep`."""
        ...

    def recalled(
        self, directory: Path, *, alone: bool = False
    ) -> AbstractAsyncContextManager[Moment]:
        """See `Moments.recalled`."""
        ...

    def check(self, directory: Path) -> MadeOf:
        """See `Moments.check`."""
        ...

    async def resume(self, spec: MachineSpec, moment: Moment) -> Machine:
        """See `Moments.resume`."""
        ...

    def sweep(self) -> None:
        """See `Moments.sweep`."""
        ...


class CannotFreeze:
    """For a hypervisor that cannot freeze; `why` and `hint` are what clients read."""

    can_freeze = False

    def __init__(self, why: str, hint: str) -> None:
        self._why = why
        self._hint = hint

    def _refuse(self) -> NoReturn:
        raise Unsupported(self._why, hint=self._hint)

    def taken(self, started: StartedMachine) -> AbstractAsyncContextManager[Moment]:
        """Raise Unsupported."""
        self._refuse()

    async def hibernate(self, started: StartedMachine) -> None:
        """Raise Unsupported."""
        self._refuse()

    async def keep(self, moment: Moment, directory: Path, facts: Mapping[str, object]) -> None:
        """Raise Unsupported."""
        self._refuse()

    def recalled(
        self, directory: Path, *, alone: bool = False
    ) -> AbstractAsyncContextManager[Moment]:
        """Raise Unsupported."""
        self._refuse()

    def check(self, directory: Path) -> MadeOf:
        """Raise Unsupported."""
        self._refuse()

    async def resume(self, spec: MachineSpec, moment: Moment) -> Machine:
        """Raise Unsupported."""
        self._refuse()

    def sweep(self) -> None:
        """Do nothing: nothing was kept."""
