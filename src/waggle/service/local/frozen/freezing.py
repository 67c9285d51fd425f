# SPDX-License-Identifier: Apache-2.0
"""Whether machines can be frozen: one object, chosen once, that does it or says why it cannot.

The composition root chooses `Moments` for a hypervisor that freezes machines, else `CannotFreeze`.
Everybody else calls it and asks nothing.
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
    """Freezes machines, keeps them frozen, and has others go on from them.

    Every method but `sweep` raises Unsupported where that cannot be done.
    """

    @property
    def can_freeze(self) -> bool:
        """Whether it can be done at all."""
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
    """Of a hypervisor that cannot; `why` and `hint` are what whoever asks for it reads."""

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
        """Nothing was kept."""
