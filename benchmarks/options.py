# SPDX-License-Identifier: Apache-2.0
"""What a run was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`rounds` None leaves each benchmark its own number; `tick` shows what is going on."""

    rounds: int | None
    cycles: int
    tick: Callable[[str], None]
