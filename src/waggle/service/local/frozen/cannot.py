# SPDX-License-Identifier: Apache-2.0
"""What takes the place of a `Freezer` for a hypervisor whose machines cannot be frozen."""

from __future__ import annotations

from typing import NoReturn

from waggle.domain.errors import Unsupported
from waggle.domain.hypervisor import CHOOSE_ONE


class CannotFreeze:
    """Instead of `Freezer` if machines cannot be frozen; clients read `why` and `hint`.

    Every method but `sweep` raises Unsupported.
    """

    keeps_connections = True

    def __init__(self, why: str, hint: str) -> None:
        self._why = why
        self._hint = hint

    @classmethod
    def because(cls, name: str, *, others: bool) -> CannotFreeze:
        """Return that of a hypervisor. `others` says that another one of the server can freeze."""
        ask = "create_environment(snapshots=true) makes an environment that can."
        why = f"This environment's hypervisor, {name}, cannot freeze machines."
        return cls(why, hint=ask if others else CHOOSE_ONE)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise Unsupported(self._why, hint=self._hint)

    turn = freeze = pause_to_disk = keep = opened = check = resume = _refuse

    def sweep(self) -> None:
        """Do nothing: no machine was frozen."""
