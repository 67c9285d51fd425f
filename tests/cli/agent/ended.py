# SPDX-License-Identifier: Apache-2.0
"""How a command of a test ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def result(self) -> Any:
        return json.loads(self.out)


class Run(Protocol):
    """Runs a command line."""

    def __call__(self, *words: str | Path) -> Ended: ...
