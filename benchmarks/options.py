# SPDX-License-Identifier: Apache-2.0
"""The options of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`rounds` None leaves each benchmark its own number; `tick` shows progress."""

    rounds: int | None
    cycles: int
    tick: Callable[[str], None]
